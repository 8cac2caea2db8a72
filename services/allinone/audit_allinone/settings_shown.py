"""The settings in effect and where each comes from: a table on a terminal, NAME=value lines into a pipe."""

from __future__ import annotations

import shlex
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audit_allinone.console import say
from audit_kit.settings import Settings


def show(settings: Settings) -> None:
    """Print them all."""
    rows = settings.rows()
    if not sys.stdout.isatty():
        for row in rows:
            say(f"{row.variable}={shlex.quote(row.value) if row.value else ''}")
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("setting", "value", "from", "what it is"):
        table.add_column(title, overflow="fold")
    for row in rows:
        style = "bold" if row.source == "environment" else ""
        table.add_row(row.variable, escape(row.value), row.source, escape(row.description), style=style)
    Console().print(table)
