"""The pipeline from queue to ledger on a real database, with each part under its own login."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg

from audit_backends.event_queue.postgres import PostgresEventQueue
from audit_backends.key_store.file import FileKeyStore
from audit_backends.ledger.postgres import PostgresLedger
from audit_backends.postgres_pool import postgres_pool
from audit_backends.tenant_directory.postgres import PostgresTenantDirectory, PostgresTenantRegistry
from audit_contracts.codec import BatchCodec
from audit_contracts.event import Event
from audit_contracts.ports.event_queue import EventQueue, Message
from audit_contracts.ports.ledger import Ledger, WrappedOwnerKey
from audit_contracts.principal import TenantId
from audit_contracts.record import Sealer, commitment, core_bytes, key_id_of, leaf, leaf_hash
from audit_contracts.times import to_us
from audit_kit.clock import SystemClock
from audit_kit.keyring import Keyring
from audit_projector.ledger import LedgerProjector


class Urls(Protocol):
    """Where a migrated database is reached."""

    @property
    def owner_url(self) -> str:
        """As its owner."""

    def url_for(self, part: str) -> str:
        """As a part, under its own login."""


@dataclass
class Pipeline:
    """What a test holds: both ends of the pipeline, and the owner's eye on the database."""

    queue: EventQueue
    """As ingest holds it."""
    projector_queue: EventQueue
    ledger: Ledger
    new_keys: Callable[[], Keyring]
    new_projector_keys: Callable[[], Keyring]
    registry: PostgresTenantRegistry
    owner: asyncpg.Connection[Any]

    def __post_init__(self) -> None:
        self.renew_keys()

    def renew_keys(self) -> None:
        """Forget the keys held, as every process does in time after a rotation."""
        self.keys = self.new_keys()
        self.projector_keys = self.new_projector_keys()

    async def new_tenant(self, name: str) -> TenantId:
        """An active tenant with keys of its own."""
        return (await self.registry.create_tenant(TenantId(name), name=name)).tenant_id

    def projector(self, *, queue: EventQueue | None = None, ledger: Ledger | None = None) -> LedgerProjector:
        """A projector on this pipeline, or on what stands in for a port of it."""
        return LedgerProjector(
            queue=queue or self.projector_queue,
            ledger=ledger or self.ledger,
            keyring=self.projector_keys,
            clock=SystemClock(),
        )

    async def message(self, tenant: TenantId, *events: Event, made_at_us: int | None = None) -> Message:
        """A sealed batch of `events`, as ingest makes it."""
        batch_id = uuid.uuid4()
        key = await self.keys.transport_key(tenant)
        body = BatchCodec().seal(tenant, batch_id, made_at_us or SystemClock().now_us(), events, key)
        return Message(tenant, batch_id, body)

    async def send(self, *messages: Message) -> None:
        """Put messages into the queue, and see that it has them."""
        assert await self.queue.send(messages) == [None] * len(messages)

    async def until(self, statement: str, expected: object, *, timeout_s: float = 60.0) -> None:
        """Wait until the statement's one value is `expected`."""
        async with asyncio.timeout(timeout_s):
            while await self.owner.fetchval(statement) != expected:  # noqa: ASYNC110 - a database tells no event
                await asyncio.sleep(0.02)

    async def drained(self, *, timeout_s: float = 60.0) -> None:
        """Wait until the queue is empty."""
        await self.until("SELECT count(*) FROM auditlog_queue.messages", 0, timeout_s=timeout_s)

    async def rows(self, tenant: TenantId) -> list[asyncpg.Record]:
        """All of the tenant's entries in the order of their positions."""
        return await self.owner.fetch("SELECT * FROM auditlog.entries WHERE tenant = $1 ORDER BY position", tenant)

    async def verify(self, tenant: TenantId, expected: Sequence[Event]) -> None:
        """That the ledger holds exactly these events, whole, at positions without gaps, each under its leaf hash."""
        rows = await self.rows(tenant)
        assert [row["position"] for row in rows] == list(range(len(rows)))
        assert Counter(row["id"] for row in rows) == Counter(event.id for event in expected)
        recorded = [row["recorded_at"] for row in rows]
        assert recorded == sorted(recorded)
        log_id = await self.ledger.log_id(tenant)
        by_id = {event.id: event for event in expected}
        sealer = Sealer()
        for row in rows:
            event = by_id[row["id"]]
            stored = await self.owner.fetchrow(
                "SELECT key_id, tag, tenant_key_id, wrapped FROM auditlog.owner_keys WHERE key_id = $1",
                key_id_of(row["sealed"]),
            )
            assert stored is not None
            wrapped = WrappedOwnerKey(*stored)
            wrapping = await self.projector_keys.owner_wrapping_by_id(tenant, wrapped.tenant_key_id)
            opened = sealer.open(log_id, event.id, row["sealed"], wrapping.open(wrapped))
            assert (opened.data(3), opened.data(4)) == (event.changes, event.content)
            assert opened.root() == row["root"]
            assert row["leaf_hash"] == recomputed_leaf_hash(log_id, row)


def recomputed_leaf_hash(log_id: bytes, row: asyncpg.Record) -> bytes:
    """The leaf hash that follows from a row's columns."""
    core = core_bytes(
        row["id"],
        row["action"],
        row["severity"],
        row["outcome"],
        row["resource_type"],
        row["source"],
        to_us(row["timestamp"]),
        to_us(row["received_at"]),
        row["request_id"],
        row["correlation_id"],
        row["trace_id"],
        row["producer_id"],
        row["producer_seq"],
        row["schema_version"],
        row["flags"] or [],
    )
    core_commitment = commitment(0, row["core_salt"], core)
    return leaf_hash(leaf(log_id, row["position"], to_us(row["recorded_at"]), core_commitment, row["root"]))


@asynccontextmanager
async def open_pipeline(database: Urls) -> AsyncIterator[Pipeline]:
    """The pipeline's parts on `database`, opened and closed with the block."""
    store = FileKeyStore(secrets.token_bytes(32))

    def keyring(pool: asyncpg.Pool[Any]) -> Keyring:
        return Keyring(tenant_keys=PostgresTenantDirectory(pool), key_store=store, clock=SystemClock())

    owner = await asyncpg.connect(database.owner_url)
    try:
        async with (
            postgres_pool(database.url_for("ingest"), part="ingest") as ingest,
            postgres_pool(database.url_for("projector"), part="projector") as projector,
            postgres_pool(database.url_for("admin"), part="admin") as admin,
        ):
            queue, projector_queue = PostgresEventQueue(ingest), PostgresEventQueue(projector)
            yield Pipeline(
                queue=queue,
                projector_queue=projector_queue,
                ledger=PostgresLedger(projector),
                new_keys=lambda: keyring(ingest),
                new_projector_keys=lambda: keyring(projector),
                registry=PostgresTenantRegistry(admin, key_store=store),
                owner=owner,
            )
            await queue.close()
            await projector_queue.close()
    finally:
        await owner.close()


@asynccontextmanager
async def projecting(*projectors: LedgerProjector) -> AsyncIterator[None]:
    """Run projectors for the block, and stop them as SIGTERM does."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for projector in projectors:
            tasks.create_task(projector.run(stop))
        try:
            yield
        finally:
            stop.set()
