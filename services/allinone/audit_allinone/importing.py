"""
Import a file of entries, or of CloudTrail records, one a line.

The file may be larger than memory. Running it again, after an end of whatever kind, adds only what is missing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Final, Self

import httpx
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from audit_allinone.client import client_options
from audit_allinone.console import say, tell
from audit_allinone.failures import Failure
from audit_allinone.import_entries import Format, Reject, chunks
from audit_allinone.import_lines import Lines, opened_lines
from audit_allinone.import_sending import BulkSender
from audit_allinone.profile import Target

SOME_REJECTED: Final = 3
"""The exit status where all was imported but lines that are in the rejects file."""
REJECTS_SHOWN: Final = 10


async def import_file(target: Target, path: Path, format: Format) -> None:
    """
    Import the file and say how it went.

    Raises:
        Failure: the server can't or won't take it; or (status 3) some lines were rejected.
    """
    rejects = Rejects(Path(f"{path.name.partition('.')[0]}.rejects.ndjson"))
    with opened_lines(path) as lines, closing(rejects):
        accepted = 0
        started_s = time.monotonic()

        def sent(count: int, refused: Sequence[Reject]) -> None:
            nonlocal accepted
            accepted += count
            for reject in refused:
                rejects.add(reject)
            bar.show(accepted)

        try:
            async with httpx.AsyncClient(**client_options(target)) as client:
                with _Bar(lines) as bar:
                    await BulkSender(client, on_sent=sent).send_all(chunks(lines, format))
        finally:
            took_s = max(time.monotonic() - started_s, 0.001)
            rate = f"{accepted / took_s:,.0f}/s"
            say(f"{accepted:,} entries accepted in {took_s:.1f} s ({rate}), {rejects.count:,} lines rejected")
    if rejects.count:
        raise Failure(f"the rejected lines and why are in {rejects.path}", status=SOME_REJECTED)


class Rejects:
    """The file of rejected lines, made with the first; for its owner alone, since they hold what nobody has masked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file: BinaryIO | None = None

    def add(self, reject: Reject) -> None:
        """Keep a line and its reason, and tell the first few."""
        self.count += 1
        if self._file is None:
            self.path.unlink(missing_ok=True)
            self._file = os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        line = reject.line
        kept = {"line": line.number, "reason": reject.reason, "text": line.text.decode("utf-8", "backslashreplace")}
        self._file.write(orjson.dumps(kept) + b"\n")
        if self.count <= REJECTS_SHOWN:
            tell(f"line {line.number}: {reject.reason}")

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()


class _Bar:
    """How far the file is read: a bar on a terminal, nothing elsewhere; gone when the block ends."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[count]:,} entries, {task.fields[rate]:,.0f}/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("importing", total=lines.size, count=0, rate=0.0)
        self._started_s = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, accepted: int) -> None:
        """Show that so many entries are in."""
        rate = accepted / max(time.monotonic() - self._started_s, 0.001)
        self._bar.update(self._task, completed=self._lines.read, count=accepted, rate=rate)
