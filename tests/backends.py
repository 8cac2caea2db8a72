"""
Which backends each conformance suite runs on: one line a backend.

Each opener gives the port, opened on a fresh database of the test's own, with a way to look at what it keeps from
outside.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from audit_backends.event_queue.postgres import PostgresEventQueue
from audit_backends.key_store.file import FileKeyStore
from audit_backends.ledger.postgres import PostgresLedger
from audit_backends.ledger.postgres_reader import PostgresLedgerReader
from audit_backends.postgres_pool import postgres_pool
from audit_backends.schema.migrations import PARTS
from audit_backends.tenant_directory.postgres import PostgresTenantDirectory, PostgresTenantRegistry
from audit_contracts.ports.event_queue import EventQueue
from audit_contracts.ports.key_store import KeyStore
from audit_contracts.ports.ledger import DeadLetters, Ledger, LedgerReader
from audit_contracts.principal import TenantId
from tests.services import Database


@dataclass(frozen=True)
class OpenQueue:
    """A queue as its sender and its receiver each hold it."""

    sender: EventQueue
    receiver: EventQueue
    new_sender: Callable[[], EventQueue]


@dataclass(frozen=True)
class OpenLedger:
    """A ledger, and the owner's connection to the database under it."""

    ledger: Ledger
    dead_letters: DeadLetters
    owner: asyncpg.Connection[Any]
    new_ledger: Callable[[], Ledger]
    """Another writer on the same database."""

    async def new_tenant(self, name: str) -> tuple[TenantId, bytes]:
        """A tenant of that name with an empty log, and its log id."""
        await self.owner.execute("SELECT auditlog.create_tenant($1, $1, '{}', '{}', '{}')", name)
        return TenantId(name), await self.ledger.log_id(TenantId(name))

    async def rows(self, tenant: TenantId) -> list[asyncpg.Record]:
        """All of the tenant's entries in the order of their positions."""
        return await self.owner.fetch("SELECT * FROM auditlog.entries WHERE tenant = $1 ORDER BY position", tenant)

    async def stop_clock(self, at: str) -> None:
        """Let the database's time stand at `at`."""
        await self.owner.execute(
            "CREATE OR REPLACE FUNCTION auditlog.now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE "
            f"AS $$SELECT timestamptz '{at}'$$"
        )


@dataclass(frozen=True)
class OpenReader:
    """A ledger as query reads it, and as the projector fills it."""

    reader: LedgerReader
    filled: OpenLedger


@dataclass(frozen=True)
class OpenDirectory:
    """The control data as admin writes it, as each other part reads it, and the owner's connection beneath."""

    registry: PostgresTenantRegistry
    part: Mapping[str, PostgresTenantDirectory]
    key_store: KeyStore
    owner: asyncpg.Connection[Any]


@asynccontextmanager
async def _postgres_queue(database: Database, *, queue_bytes_max: int) -> AsyncIterator[OpenQueue]:
    async with (
        postgres_pool(database.url_for("ingest"), part="ingest") as sending,
        postgres_pool(database.url_for("projector"), part="projector") as receiving,
    ):

        def new_sender() -> PostgresEventQueue:
            return PostgresEventQueue(sending, queue_bytes_max=queue_bytes_max)

        sender, receiver = new_sender(), PostgresEventQueue(receiving)
        yield OpenQueue(sender, receiver, new_sender)
        await sender.close()
        await receiver.close()


@asynccontextmanager
async def _postgres_ledger(database: Database) -> AsyncIterator[OpenLedger]:
    owner = await asyncpg.connect(database.owner_url)
    try:
        async with postgres_pool(database.url_for("projector"), part="projector") as pool:
            ledger = PostgresLedger(pool)
            yield OpenLedger(ledger, ledger, owner, lambda: PostgresLedger(pool))
    finally:
        await owner.close()


@asynccontextmanager
async def _postgres_reader(database: Database) -> AsyncIterator[OpenReader]:
    async with (
        _postgres_ledger(database) as ledger,
        postgres_pool(database.url_for("query"), part="query") as pool,
    ):
        yield OpenReader(PostgresLedgerReader(pool), ledger)


@asynccontextmanager
async def _postgres_directory(database: Database) -> AsyncIterator[OpenDirectory]:
    key_store = FileKeyStore(secrets.token_bytes(32))
    async with AsyncExitStack() as stack:
        pools = {
            part: await stack.enter_async_context(postgres_pool(database.url_for(part), part=part, connections_max=2))
            for part in PARTS
        }
        owner = await asyncpg.connect(database.owner_url)
        stack.push_async_callback(owner.close)
        yield OpenDirectory(
            PostgresTenantRegistry(pools["admin"], key_store=key_store),
            {part: PostgresTenantDirectory(pool) for part, pool in pools.items()},
            key_store,
            owner,
        )


@asynccontextmanager
async def _file_key_store() -> AsyncIterator[KeyStore]:
    key_store = FileKeyStore(secrets.token_bytes(32))
    yield key_store
    await key_store.close()


EVENT_QUEUES: Mapping[str, Callable[..., AbstractAsyncContextManager[OpenQueue]]] = {"postgres": _postgres_queue}
LEDGERS: Mapping[str, Callable[[Database], AbstractAsyncContextManager[OpenLedger]]] = {"postgres": _postgres_ledger}
LEDGER_READERS: Mapping[str, Callable[[Database], AbstractAsyncContextManager[OpenReader]]] = {
    "postgres": _postgres_reader
}
TENANT_DIRECTORIES: Mapping[str, Callable[[Database], AbstractAsyncContextManager[OpenDirectory]]] = {
    "postgres": _postgres_directory
}
KEY_STORES: Mapping[str, Callable[[], AbstractAsyncContextManager[KeyStore]]] = {"file": _file_key_store}
