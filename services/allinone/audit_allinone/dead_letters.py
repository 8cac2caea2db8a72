"""
What could not be written to the ledger: list it with its reasons, and send it again once the reason is gone.

An operator's verb: it speaks not to the API but to database and queue, under the projector's login (that of
AUDITLOG_PROJECTOR_DATABASE_URL, or of a running `auditlog up` on this machine). Replaying twice adds nothing.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audit_allinone.console import say
from audit_allinone.data_folder import DataFolder, default_folder
from audit_allinone.failures import Failure
from audit_backends.opening import opened_backends
from audit_contracts.errors import NotDone, OutcomeUnknown
from audit_contracts.ports.event_queue import EventQueue, Message
from audit_contracts.ports.ledger import DeadLetters, StoredDeadLetter
from audit_contracts.principal import TenantId
from audit_kit.settings import Settings

PAGE: Final = 100

_SHOWN: Final = ("dead_letter_id", "created_at", "reason", "detail", "batch_id", "ordinal", "replayed_at")
"""All but the message, which nobody but the projector has a use for."""


async def show(settings: Settings, tenant: TenantId, *, replayed: bool) -> None:
    """Print the tenant's dead letters, oldest first; those that were replayed only where asked for."""
    async with _opened(settings) as (letters, _):
        async for page in _pages(letters, tenant, replayed=replayed):
            rows = [{name: getattr(letter, name) for name in _SHOWN} for letter in page]
            if sys.stdout.isatty():
                Console().print(_table(rows))
            else:
                for row in rows:
                    say(orjson.dumps(row, default=str).decode())


async def replay(settings: Settings, tenant: TenantId, ids: Sequence[int]) -> int:
    """
    Send dead letters of the tenant again, those of `ids` or all that were not sent again yet; answer how many.

    Raises:
        Failure: the queue did not take all of them, or there is none of an id. What it took is noted as replayed.
    """
    left = set(ids)
    sent = 0
    async with _opened(settings) as (letters, queue):
        async for page in _pages(letters, tenant, replayed=bool(ids)):
            chosen = [letter for letter in page if not ids or letter.dead_letter_id in left]
            if not chosen:
                continue
            sent += await _send(letters, queue, tenant, chosen)
            left -= {letter.dead_letter_id for letter in chosen}
    if left:
        raise Failure(f"{tenant} has no dead letter {', '.join(map(str, sorted(left)))}")
    return sent


def _table(rows: Sequence[Mapping[str, object]]) -> Table:
    table = Table(*_SHOWN, box=None, header_style="bold", padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    return table


async def _send(letters: DeadLetters, queue: EventQueue, tenant: TenantId, chosen: Sequence[StoredDeadLetter]) -> int:
    outcomes = await queue.send([Message(tenant, letter.replay_batch_id, letter.message) for letter in chosen])
    taken = [letter.dead_letter_id for letter, outcome in zip(chosen, outcomes, strict=True) if outcome is None]
    await letters.mark_replayed(tenant, taken)
    for outcome in outcomes:
        if isinstance(outcome, NotDone | OutcomeUnknown):
            raise outcome
    return len(taken)


async def _pages(
    letters: DeadLetters, tenant: TenantId, *, replayed: bool
) -> AsyncIterator[Sequence[StoredDeadLetter]]:
    after = 0
    while page := await letters.dead_letters(tenant, after=after, limit=PAGE, replayed=replayed):
        yield page
        after = page[-1].dead_letter_id


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[DeadLetters, EventQueue]]:
    url = _database_url(settings)
    queue_url = settings.secret("event_queue_url") if settings.event_queue_url else url
    async with opened_backends("dead-letters") as backends:
        yield await backends.ledger(url), await backends.event_queue(queue_url)


def _database_url(settings: Settings) -> str:
    if settings.projector_database_url is not None:
        return settings.secret("projector_database_url")
    folder = DataFolder(settings.data_dir or default_folder())
    if not folder.logins(None).exists():
        settings.require("projector_database_url")
    return folder.login_url("projector")
