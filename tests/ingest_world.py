"""
The world behind ingest, on real parts: tenants, keys and the event queue of a fresh PostgreSQL.

The queue goes through a `FaultyQueue`, which lets everything pass until a test tells it to refuse, to lose the answer,
or to hold its breath.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, cast
from uuid import uuid4

from audit_backends.event_queue.postgres import PostgresEventQueue
from audit_backends.key_store.file import FileKeyStore
from audit_backends.postgres_pool import postgres_pool
from audit_backends.tenant_directory.postgres import PostgresTenantDirectory, PostgresTenantRegistry
from audit_contracts.codec import BatchCodec, BatchHead, read_head
from audit_contracts.errors import NotDone, OutcomeUnknown, QueueUnavailable, SendUnknown
from audit_contracts.event import Event
from audit_contracts.ports.event_queue import EventQueue, Message
from audit_contracts.principal import TenantId
from audit_kit.batcher import HELD_BYTES_MAX, Batcher
from audit_kit.keyring import Keyring
from tests.kit_world import ManualClock
from tests.services import Database


class Fault(Enum):
    """What a send does instead of what it should."""

    REFUSED = "not written, and says so"
    LOST = "not written, and nobody knows"
    UNKNOWN = "written, and nobody knows"


_TOLD: Final[Mapping[Fault, NotDone | OutcomeUnknown]] = {
    Fault.REFUSED: QueueUnavailable("refused"),
    Fault.LOST: SendUnknown("lost"),
    Fault.UNKNOWN: SendUnknown("unknown"),
}


@dataclass
class FaultyQueue:
    """A real queue with a plan of faults: one a send, then none. `faults` may also name single messages of a send."""

    queue: EventQueue
    faults: deque[Fault | Sequence[Fault | None]] = field(default_factory=deque)
    sends: list[Sequence[Message]] = field(default_factory=list)
    passing: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    message_bytes_max: int = 0

    def __post_init__(self) -> None:
        self.passing.set()
        self.message_bytes_max = self.message_bytes_max or self.queue.message_bytes_max

    async def send(self, messages: Sequence[Message]) -> Sequence[NotDone | OutcomeUnknown | None]:
        async with self.arrived:
            self.sends.append(messages)
            self.arrived.notify_all()
        await self.passing.wait()
        planned = self.faults.popleft() if self.faults else None
        faults = [planned] * len(messages) if planned is None or isinstance(planned, Fault) else planned
        written = [m for m, fault in zip(messages, faults, strict=True) if fault in (None, Fault.UNKNOWN)]
        outcomes = iter(await self.queue.send(written)) if written else iter(())
        told: list[NotDone | OutcomeUnknown | None] = []
        for fault in faults:
            outcome = next(outcomes) if fault in (None, Fault.UNKNOWN) else None
            told.append(outcome if fault is None else _TOLD[fault])
        return told

    async def until_sends(self, count: int) -> None:
        """Wait until so many sends were begun."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.sends) >= count)


@dataclass(frozen=True)
class OpenedBatch:
    """A message taken from the queue, and the events that were sealed in it."""

    tenant: TenantId
    head: BatchHead
    events: list[Event]
    body: bytes


@dataclass(frozen=True)
class IngestWorld:
    """Everything that ingest and the recorder of access stand on."""

    clock: ManualClock
    directory: PostgresTenantDirectory
    registry: PostgresTenantRegistry
    keyring: Keyring
    queue: FaultyQueue
    receiver: EventQueue

    def new_batcher(self, *, linger_s: float = 60.0, held_bytes_max: int = HELD_BYTES_MAX) -> Batcher:
        """A batcher that by itself neither departs nor waits before it resends."""
        return Batcher(
            queue=cast(EventQueue, self.queue),
            keyring=self.keyring,
            clock=self.clock,
            linger_s=linger_s,
            held_bytes_max=held_bytes_max,
            resend_delays_s=(0.0, 0.0),
        )

    def with_new_queue(self) -> IngestWorld:
        """The same world with no faults planned and no sends seen."""
        return replace(self, queue=FaultyQueue(self.queue.queue))

    async def new_tenant(self) -> TenantId:
        """A tenant that no other test knows."""
        tenant = TenantId(f"t-{uuid4().hex[:12]}")
        await self.registry.create_tenant(tenant, name="Test")
        return tenant

    async def drain(self, *tenants: TenantId) -> list[OpenedBatch]:
        """Take everything off the queue; the batches of `tenants`, opened, in the order in which they were sent."""
        opened = []
        while deliveries := await self.receiver.receive(messages_max=1_000, wait_s=0, visibility_s=60):
            await self.receiver.delete(deliveries)
            for delivery in deliveries:
                if delivery.tenant in tenants:
                    head = read_head(delivery.body)
                    key = await self.keyring.transport_key_by_id(delivery.tenant, head.key_id)
                    events = BatchCodec().open(delivery.tenant, delivery.body, key)
                    opened.append(OpenedBatch(delivery.tenant, head, events, delivery.body))
        return opened

    async def events(self, tenant: TenantId) -> list[Event]:
        """The events of `tenant` in the queue, taken off it."""
        return [event for batch in await self.drain(tenant) for event in batch.events]


@asynccontextmanager
async def ingest_world(database: Database) -> AsyncIterator[IngestWorld]:
    """Open it all on `database`, and close it."""
    async with (
        postgres_pool(database.url_for("ingest"), part="ingest") as pool,
        postgres_pool(database.url_for("admin"), part="admin") as admin_pool,
        postgres_pool(database.url_for("projector"), part="projector") as projector_pool,
    ):
        clock, key_store = ManualClock(), FileKeyStore(secrets.token_bytes(32))
        directory = PostgresTenantDirectory(pool)
        sender, receiver = PostgresEventQueue(pool), PostgresEventQueue(projector_pool)
        yield IngestWorld(
            clock=clock,
            directory=directory,
            registry=PostgresTenantRegistry(admin_pool, key_store=key_store),
            keyring=Keyring(tenant_keys=directory, key_store=key_store, clock=clock),
            queue=FaultyQueue(sender),
            receiver=receiver,
        )
        await sender.close()
        await receiver.close()
