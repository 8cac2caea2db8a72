"""The projector, exactly once, beside a raw COPY of the same rows into the same indexes."""

from __future__ import annotations

import asyncio
import io
import time
import uuid
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from audit_contracts.codec import BatchCodec
from audit_contracts.event import Changes, Content, Event
from audit_contracts.ids import uuid7
from audit_contracts.ports.event_queue import Message
from audit_contracts.principal import TenantId
from audit_contracts.times import to_us
from bench.harness import Ratio, Size, at_least, in_turn
from bench.servers import BenchServer
from bench.workload import entries
from tests.pipeline import open_pipeline, projecting

TENANT = TenantId("bench")
BATCH_EVENTS = 1_000


def made_events(count: int) -> list[Event]:
    """Events as ingest makes them of the workload."""
    now_us = time.time_ns() // 1_000
    encode = msgspec.json.encode
    return [
        Event(
            id=uuid7(now_us),
            action=entry["action"],
            severity=entry["severity"],
            outcome=entry["outcome"],
            resource_type=entry["resource_type"],
            resource_id=entry["resource_id"],
            timestamp_us=to_us(msgspec.convert(entry["timestamp"], type=datetime)),
            received_at_us=now_us,
            user_id=entry["user_id"],
            submitted_by="key|bench",
            session_id=entry["session_id"],
            ip_address=entry["ip_address"],
            user_agent=entry["user_agent"],
            changes=encode(Changes(before=entry["before"], after=entry["after"])),
            content=encode(Content(metadata=entry["metadata"])),
        )
        for entry in entries(count)
    ]


async def projector_against_copy(server: BenchServer, size: Size) -> Ratio:
    """Events a second through the projector ÷ rows a second of a raw COPY."""
    count = size.of(100_000, 20_000)
    events = made_events(count)
    rows = b""

    async def project() -> float:
        nonlocal rows
        async with server.database() as database, open_pipeline(database) as pipeline:
            await pipeline.new_tenant(TENANT)
            key = await pipeline.keys.transport_key(TENANT)
            codec = BatchCodec()
            for at in range(0, count, BATCH_EVENTS):
                batch_id = uuid.uuid4()
                body = codec.seal(TENANT, batch_id, time.time_ns() // 1_000, events[at : at + BATCH_EVENTS], key)
                await pipeline.send(Message(TENANT, batch_id, body))
            await pipeline.owner.execute("CHECKPOINT")
            started = time.perf_counter()
            async with projecting(pipeline.projector()):
                await pipeline.until("SELECT next_position FROM auditlog.heads", count)
                took_s = time.perf_counter() - started
                await pipeline.drained()
            if not rows:
                rows = await _copied_out(pipeline.owner)
            assert await pipeline.owner.fetchval("SELECT count(DISTINCT id) FROM auditlog.entries") == count
            return count / took_s

    async def copy() -> float:
        async with server.database() as database:
            owner = await asyncpg.connect(database.owner_url)
            try:
                await owner.execute("SELECT auditlog.attach_days(auditlog.now()::date, 1); CHECKPOINT")
                started = time.perf_counter()
                await owner.copy_to_table("entries", schema_name="auditlog", source=io.BytesIO(rows), format="binary")
                took_s = time.perf_counter() - started
                assert await owner.fetchval("SELECT count(*) FROM auditlog.entries") == count
                return count / took_s
            finally:
                await owner.close()

    await project()  # makes the rows that COPY takes
    ours, theirs = await in_turn("projector ÷ COPY", size.pairs, project, copy)
    target, met = at_least(0.60)
    return Ratio("ledger projector, exactly once ÷ raw COPY", "events/s", target, met, ours, theirs)


async def _copied_out(owner: asyncpg.Connection[Any]) -> bytes:
    sink = io.BytesIO()
    await owner.copy_from_query("SELECT * FROM auditlog.entries ORDER BY position", output=sink, format="binary")
    return sink.getvalue()


if __name__ == "__main__":
    from bench.servers import bench_server

    async def main() -> None:
        async with bench_server() as server:
            print((await projector_against_copy(server, Size(quick=True))).row())

    asyncio.run(main())
