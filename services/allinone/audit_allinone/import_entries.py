"""
From lines to entries that are the same whenever the same file is imported, in requests of a size that servers take.

An entry that brings no id is given one of its line and all lines before it. So the same file gives the same ids, a file
that has grown gives its old lines the ids they had, and a line that stands twice is two entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec
import orjson

from audit_allinone.cloudtrail import NotCloudTrail, entry_of
from audit_allinone.import_lines import LINE_BYTES_MAX, Line
from audit_contracts import strict_json
from audit_contracts.errors import InvalidEntry
from audit_contracts.ids import named

REQUEST_ENTRIES_MAX: Final = 500
REQUEST_BYTES_MAX: Final = 2 * 1024 * 1024

_NAMESPACE: Final = UUID("0b3d0c52-5f83-5f0c-8f0a-1c5b1d6f7a10")


class Format(StrEnum):
    """What the lines of a file are."""

    CLOUDTRAIL = "cloudtrail"
    NDJSON = "ndjson"


class Item(msgspec.Struct, frozen=True):
    """An entry to send, and the line that it came from."""

    line: Line
    entry: bytes


class Reject(msgspec.Struct, frozen=True):
    """A line that is no entry, or that the server refused, and why."""

    line: Line
    reason: str


class Chunk(msgspec.Struct, frozen=True):
    """What goes out in one request, and the lines before its end that don't go out at all."""

    items: Sequence[Item]
    rejects: Sequence[Reject]


def chunks(lines: Iterable[Line], format: Format) -> Iterator[Chunk]:
    """The lines as requests, in their order."""
    read = _READERS[format]()
    items: list[Item] = []
    rejects: list[Reject] = []
    size = 0
    for line in lines:
        try:
            entry = read(line)
        except (NotCloudTrail, InvalidEntry) as exc:
            rejects.append(Reject(line, str(exc)))
            continue
        if items and (len(items) == REQUEST_ENTRIES_MAX or size + len(entry) > REQUEST_BYTES_MAX):
            yield Chunk(items, rejects)
            items, rejects, size = [], [], 0
        items.append(Item(line, entry))
        size += len(entry) + 1
    if items or rejects:
        yield Chunk(items, rejects)


def _cloudtrail() -> Callable[[Line], bytes]:
    return lambda line: orjson.dumps(entry_of(_object(line)))


def _ndjson() -> Callable[[Line], bytes]:
    told = hashlib.sha256()

    def read(line: Line) -> bytes:
        told.update(line.text + b"\n")
        text = line.text.strip()
        entry = _object(line)
        if entry.get("id") is not None or "id" in entry:
            return text
        # Put in front of what stands there, so that the rest goes out in the bytes that it came in.
        head = b'{"id":"%s"' % str(named(_NAMESPACE, told.digest())).encode()
        return head + (b"," if entry else b"") + text[1:].lstrip()

    return read


_READERS: Final[Mapping[Format, Callable[[], Callable[[Line], bytes]]]] = {
    Format.CLOUDTRAIL: _cloudtrail,
    Format.NDJSON: _ndjson,
}


def _object(line: Line) -> Mapping[str, Any]:
    if line.is_cut:
        raise NotCloudTrail(f"longer than {LINE_BYTES_MAX} bytes")
    value = strict_json.loads(line.text.strip())
    if not isinstance(value, dict):
        raise NotCloudTrail("not a JSON object")
    return value
