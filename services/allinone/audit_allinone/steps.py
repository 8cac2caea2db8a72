"""What takes long says so: a line on standard error for each step of a start that is not over after 2 seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

SLOW_S: Final = 2.0


@contextmanager
def step(doing: str) -> Iterator[None]:
    """Tell that this step is under way, once it has taken `SLOW_S`; `doing` goes before an ellipsis."""
    timer = asyncio.get_running_loop().call_later(SLOW_S, typer.echo, f"{doing} …", None, True, True)
    try:
        yield
    finally:
        timer.cancel()
