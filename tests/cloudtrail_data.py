"""2,000 real CloudTrail records, where this machine has them; they are not part of the project."""

from __future__ import annotations

import gzip
import os
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

MISSING = "the CloudTrail records are not on this machine (AUDITLOG_TEST_DATA names their folder)"

_BESIDE_THE_PROJECT = Path(__file__).parents[2] / "shared" / "data"


def path() -> Path:
    """The file; the test is skipped where it is missing."""
    file = Path(os.environ.get("AUDITLOG_TEST_DATA", _BESIDE_THE_PROJECT)) / "cloudtrail.ndjson.gz"
    if not file.exists():
        pytest.skip(MISSING)
    return file


def records() -> list[dict[str, Any]]:
    """The records, parsed. Not to be changed: they are read once."""
    return _read(path())


@cache
def _read(file: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
