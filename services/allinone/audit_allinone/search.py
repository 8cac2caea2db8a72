"""Ask for entries, page by page: a table on a terminal, lines of JSON into a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import httpx
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from audit_allinone.client import answer, opened_client
from audit_allinone.console import say, tell
from audit_allinone.profile import Target
from audit_contracts.query import LIMIT_MAX

Parameters = Sequence[tuple[str, str]]

_COLUMNS: Final = ("time (UTC)", "user", "action", "resource", "outcome", "severity", "address")
_STYLES: Final = {"failure": "red", "CRITICAL": "bold red", "ERROR": "red", "WARNING": "yellow"}


def search(target: Target, parameters: Parameters, *, limit: int) -> None:
    """
    Print up to `limit` entries that match.

    Raises:
        Failure: the server refuses the question.
    """
    shown, total = 0, None
    for page in _pages(target, parameters, limit):
        shown += len(page["results"])
        total = page.get("total", total)
        if sys.stdout.isatty():
            if page["results"]:
                Console().print(_table(page["results"]))
        else:
            for entry in page["results"]:
                say(orjson.dumps(entry).decode())
    if sys.stdout.isatty() or total is not None:
        tell(f"{shown} entries" + (f" of {total}" if total is not None else ""))


def _pages(target: Target, parameters: Parameters, limit: int) -> Iterator[Any]:
    with opened_client(target) as client:
        token, left = None, limit
        while left > 0:
            asked = [*parameters, ("limit", str(min(left, LIMIT_MAX)))]
            if token is not None:
                asked = [pair for pair in asked if pair[0] != "total"] + [("next_token", token)]
            page = answer(client.get("/logs", params=httpx.QueryParams(tuple(asked))))
            yield page
            left -= len(page["results"])
            token = page["next_token"]
            if token is None:
                return


def _table(entries: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in _COLUMNS:
        table.add_column(title, overflow="fold", no_wrap=title in ("time (UTC)", "severity"))
    for entry in entries:
        cells = (
            entry["timestamp"][:19].replace("T", " "),
            entry["user_id"],
            entry["action"],
            f"{entry['resource_type']} {entry['resource_id']}",
            entry["outcome"],
            entry["severity"],
            entry.get("ip_address", ""),
        )
        table.add_row(*map(_cell, cells))
    return table


def _cell(text: str) -> Text:
    # What stands in an entry was written by others: neither markup nor the terminal's control characters.
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return Text(shown, style=_STYLES.get(text, ""))
