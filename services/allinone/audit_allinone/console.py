"""What the command says: results on standard output, everything else on standard error."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import typer


def say(text: str) -> None:
    """Print a result."""
    typer.echo(text)


def tell(text: str) -> None:
    """Print what is no result: progress, warnings, errors."""
    typer.echo(text, err=True)


def command() -> str:
    """How this command was called, so that it can be called again from the same folder without further ado."""
    called = Path(sys.argv[0])
    found = shutil.which(called.name)
    if found is not None and Path(found).absolute() == called.absolute():
        return called.name
    folder = Path.cwd()
    path = called.absolute()
    if path.is_relative_to(folder):
        near = os.path.relpath(path, folder)
        return shlex.quote(near if os.sep in near else f".{os.sep}{near}")
    return shlex.quote(str(path))
