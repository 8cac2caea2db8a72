"""What `make install` says on a machine that it can't install on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what tools/install.sh reads, and no .venv."""
    (tmp_path / "tools").mkdir()
    for name in ("tools/install.sh", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def install(clone: Path, *, python3: str) -> subprocess.CompletedProcess[str]:
    """Run the installer where every python3 found is the shell script `python3`."""
    found_first = clone / "bin"
    found_first.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        (found_first / name).write_text(f"#!/bin/sh\n{python3}\n")
        (found_first / name).chmod(0o755)
    return subprocess.run(
        [clone / "tools/install.sh", "base"],
        env={"PATH": f"{found_first}:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_python_that_is_too_old_is_named_with_what_to_do(clone: Path) -> None:
    done = install(clone, python3='case "$2" in *raise*) exit 1 ;; esac; echo 3.9.2')
    assert done.returncode == 1
    assert "needs Python 3.11 or newer; python3 here is 3.9.2." in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_python_without_venv_is_named_with_the_package_to_install(clone: Path) -> None:
    done = install(clone, python3=f'case "$2" in *ensurepip*) exit 1 ;; esac; exec {sys.executable} "$@"')
    assert done.returncode == 1
    assert f"apt install python3.{sys.version_info.minor}-venv" in done.stderr
    assert not (clone / ".venv").exists()
