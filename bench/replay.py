"""The rival of a read over HTTP: the statements that the reader sends, sent again bare, and their rows opened."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from asyncpg.connection import LoggedQuery

from audit_backends.ledger.postgres_reader import PostgresLedgerReader
from audit_contracts.ports.ledger import LedgerRow
from audit_contracts.query import LIMIT_DEFAULT, Direction, Filter, Sight
from audit_kit.clock import SystemClock
from audit_kit.keyring import Keyring
from audit_query.opening import RowOpener
from audit_query.reading import BUDGET
from bench.service import TENANT

_COLUMNS = len(LedgerRow.__struct_fields__)


class Read(msgspec.Struct, frozen=True):
    """The statements of one read, between BEGIN and COMMIT, the tenant's binding first."""

    statements: Sequence[tuple[str, Sequence[Any]]]


class Replayer:
    """Records what the reader asks the database, and asks the same again over the same one connection."""

    def __init__(self, pool: asyncpg.Pool[Any], keyring: Keyring) -> None:
        self._pool = pool
        self._reader = PostgresLedgerReader(pool)
        self._opener = RowOpener(reader=self._reader, keyring=keyring, clock=SystemClock())

    async def page(self, filter: Filter) -> Read:
        """The read of a list's first page."""
        return await self._recorded(
            lambda: self._reader.walk(
                TENANT,
                filter=filter,
                sight=Sight(),
                direction=Direction.NEWEST_FIRST,
                start=None,
                size=None,
                limit=LIMIT_DEFAULT,
                budget=BUDGET,
            )
        )

    async def point(self, entry_id: UUID) -> Read:
        """The read of one entry."""
        return await self._recorded(lambda: self._reader.row(TENANT, entry_id, sight=Sight()))

    async def replay(self, read: Read) -> list[UUID]:
        """Do a read again: in a transaction of the same kind, and open its rows. The ids of what it found."""
        found: list[LedgerRow] = []
        log_id = b""
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            for statement, arguments in read.statements:
                rows = await connection.fetch(statement, *arguments)
                if "sealed" in statement:
                    found += (LedgerRow(*row[:_COLUMNS]) for row in rows)
                elif rows and "log_id" in rows[0].keys():  # noqa: SIM118 - a record holds values, not keys
                    log_id = rows[0]["log_id"]
        await self._opener.open(TENANT, log_id, found)
        return [row.id for row in found]

    async def _recorded(self, read: Callable[[], Awaitable[object]]) -> Read:
        logged: list[LoggedQuery] = []
        # The pool renews its connection now and then, and the new one was not asked to tell.
        while not logged:
            async with self._pool.acquire() as connection:
                connection.add_query_logger(logged.append)
            await read()
            async with self._pool.acquire() as connection:
                await asyncio.sleep(0)  # loggers are called in the loop's next turn
                connection.remove_query_logger(logged.append)
        texts = [query.query for query in logged]
        begin = next(at for at, text in enumerate(texts) if text.startswith("BEGIN"))
        end = next(at for at, text in enumerate(texts) if text.startswith("COMMIT"))
        return Read([(query.query, query.args or ()) for query in logged[begin + 1 : end]])
