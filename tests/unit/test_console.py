"""How a printed command calls the command itself: as it was called, so that it can be pasted as it stands."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from audit_allinone.console import command


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "a venv" / "bin" / "auditlog"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "up"])
    monkeypatch.setenv("PATH", os.defpath)
    return program


def test_on_the_path_its_name_is_enough(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(installed.parent))
    assert command() == "auditlog"


def test_below_this_folder_the_way_from_here_is_enough(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(installed.parents[2])
    assert command() == "'a venv/bin/auditlog'"


def test_in_this_folder_it_is_not_looked_for_on_the_path(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(installed.parent)
    monkeypatch.setattr(sys, "argv", ["auditlog", "up"])
    assert command() == "./auditlog"


def test_elsewhere_it_is_named_in_full(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "argv", [str(installed), "up"])
    (other := installed.parents[1] / "elsewhere").mkdir()
    monkeypatch.chdir(other)
    assert command() == f"'{installed}'"
