"""Ingest alone: single posts beside a route that does nothing, bulks beside the bare work on the same bytes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from audit_backends.tenant_directory.postgres import PostgresTenantDirectory
from audit_contracts.codec import BatchCodec, TransportKey
from audit_contracts.event import Event
from audit_contracts.ports.tenant_directory import Tenant
from audit_contracts.principal import PERMISSIONS, Principal, Role
from audit_contracts.strict_json import split_lines
from audit_ingest.event_ids import EventIds
from audit_ingest.request import EntryReader
from audit_ingest.routes import BULK_PATH, SINGLE_PATH
from audit_kit.event_making import EventMaker, masker_of
from audit_kit.keyring import Keyring
from audit_kit.masking import Masker
from audit_kit.secret_keys import SecretKey
from audit_kit.settings import Settings
from bench.copying import Wrong
from bench.end_to_end import BULK_ENTRIES, WARM_ENTRIES, where_of
from bench.harness import Ratio, Result, Size, at_least, in_turn
from bench.load import Answered, LoadProcess, Posts, post
from bench.servers import BenchServer
from bench.service import TENANT, Service, service
from bench.serving import NOOP_PATH
from bench.workload import bodies, checksum, checksum_of_events


async def single_against_noop(server: BenchServer, size: Size, load: LoadProcess) -> Sequence[Result]:
    """Single posts a second, each durable before its 201 ÷ requests a second to a route that does nothing."""
    count = size.of(20_000, 5_000)
    async with service(server, ["ingest"]) as running:
        where = where_of(running)

        async def single() -> float:
            await running.owner.execute("TRUNCATE auditlog_queue.messages; CHECKPOINT")
            sent = await load.run(post, where, Posts(SINGLE_PATH, count))
            await _check_queue(running, sent, count)
            return count / sent.took_s

        async def noop() -> float:
            sent = await load.run(post, where, Posts(NOOP_PATH, count))
            return count / sent.took_s

        await load.run(post, where, Posts(SINGLE_PATH, WARM_ENTRIES))
        await load.run(post, where, Posts(NOOP_PATH, WARM_ENTRIES))
        ours, theirs = await in_turn("single POST : no-op", size.rounds, single, noop)
    return [Ratio("single durable POST ÷ authenticated no-op", "requests/s", at_least(0.40), ours, theirs)]


async def bulk_against_bare_work(server: BenchServer, size: Size, load: LoadProcess) -> Sequence[Result]:
    """Events a second in bulks, durable before their 201 ÷ decode, mask, seal and encode of the same bytes."""
    count = size.of(50_000, 10_000)
    async with service(server, ["ingest"]) as running, running.keyring("ingest") as (pool, keyring):
        where = where_of(running)
        tenant = await PostgresTenantDirectory(pool).tenant(TENANT)
        work = await _BareWork.of(tenant, keyring)

        async def bulk() -> float:
            await running.owner.execute("TRUNCATE auditlog_queue.messages; CHECKPOINT")
            sent = await load.run(post, where, Posts(BULK_PATH, count, BULK_ENTRIES))
            await _check_queue(running, sent, count)
            return count / sent.took_s

        async def bare() -> float:
            started = time.perf_counter()
            events = [event for body in bodies(count, BULK_ENTRIES) for event in work.do(body)]
            took_s = time.perf_counter() - started
            if len(events) != count or checksum_of_events(events) != checksum(count):
                raise Wrong("the bare work made other events than it was given")
            return count / took_s

        await load.run(post, where, Posts(BULK_PATH, WARM_ENTRIES, BULK_ENTRIES))
        await bare()
        ours, theirs = await in_turn("bulk : bare work", size.rounds, bulk, bare)
    name = "bulk ingest ÷ decode, mask, seal, encode in process"
    return [Ratio(name, "events/s", at_least(0.70), ours, theirs)]


class _BareWork:
    """What ingest does with the bytes of a bulk and nothing else: no HTTP, no queue, one thread."""

    def __init__(self, masker: Masker, digest_key: SecretKey, transport_key: TransportKey) -> None:
        self._digest_key = digest_key
        self._transport_key = transport_key
        self._codec = BatchCodec()
        self._settings = Settings()
        self._principal = Principal(
            tenant=TENANT, issuer="bench", subject="bench", role=Role.ADMIN, permissions=PERMISSIONS[Role.ADMIN]
        )
        self._maker = EventMaker(masker=masker, submitted_by=self._principal.name)

    @classmethod
    async def of(cls, tenant: Tenant, keyring: Keyring) -> _BareWork:
        """With the tenant's own masking and keys."""
        return cls(
            await masker_of(tenant, keyring), await keyring.digest_key(TENANT), await keyring.transport_key(TENANT)
        )

    def do(self, body: bytes) -> Sequence[Event]:
        """Decode, mask, seal and encode one bulk."""
        now_us = time.time_ns() // 1_000
        reader = EntryReader(
            principal=self._principal,
            maker=self._maker,
            ids=EventIds(
                principal=self._principal, digest_key=self._digest_key, request_key=None, received_at_us=now_us
            ),
            received_at_us=now_us,
            trace_id=None,
            entry_bytes_max=self._settings.entry_bytes_max,
            depth_max=self._settings.depth_max,
        )
        events = [reader.read(raw, ordinal).event for ordinal, raw in enumerate(split_lines(body))]
        self._codec.seal(TENANT, uuid.uuid4(), now_us, events, self._transport_key)
        return events


async def _check_queue(running: Service, sent: Answered, count: int) -> None:
    """That the queue holds what was accepted, each entry once."""
    codec, events = BatchCodec(), []
    async with running.keyring("ingest") as (_, keyring):
        key = await keyring.transport_key(TENANT)
        for (body,) in await running.owner.fetch("SELECT body FROM auditlog_queue.messages"):
            events += codec.open(TENANT, body, key)
    if sent.entries != count or len(events) != count or checksum_of_events(events) != checksum(count):
        raise Wrong(f"{len(events)} events in the queue, {sent.entries} accepted, {count} sent; or other ones")
    if sum(event.id.int for event in events) % 2**128 != sent.ids:
        raise Wrong("the ids are not those of the answers")
