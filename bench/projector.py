"""The projector, exactly once, beside a raw COPY of the same rows into the same indexes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from audit_contracts.codec import BatchCodec
from audit_contracts.ports.event_queue import Message
from audit_contracts.principal import TenantId
from bench.copying import check_ledger, copied_out, copy_rate
from bench.harness import Ratio, Result, Size, at_least, in_turn
from bench.load import LoadProcess
from bench.servers import BenchServer
from bench.workload import events
from tests.pipeline import open_pipeline, projecting

TENANT = TenantId("bench")
BATCH_EVENTS = 1_000


async def projector_against_copy(server: BenchServer, size: Size, _: LoadProcess) -> Sequence[Result]:
    """Events a second through the projector ÷ rows a second of a raw COPY."""
    count = size.of(100_000, 20_000)
    made = events(count)
    rows = b""

    async def project() -> float:
        nonlocal rows
        async with server.database() as database, open_pipeline(database) as pipeline:
            await pipeline.new_tenant(TENANT)
            key = await pipeline.keys.transport_key(TENANT)
            codec = BatchCodec()
            for at in range(0, count, BATCH_EVENTS):
                batch_id = uuid.uuid4()
                body = codec.seal(TENANT, batch_id, time.time_ns() // 1_000, made[at : at + BATCH_EVENTS], key)
                await pipeline.send(Message(TENANT, batch_id, body))
            # As the days are that the projector attaches ahead; COPY's are there before it begins, too.
            await pipeline.owner.execute("SELECT auditlog.attach_days(auditlog.now()::date, 3); CHECKPOINT")
            started = time.perf_counter()
            async with projecting(pipeline.projector()):
                await pipeline.until("SELECT next_position FROM auditlog.heads", count)
                took_s = time.perf_counter() - started
                await pipeline.drained()
            if not rows:
                rows = await copied_out(pipeline.owner)
            await check_ledger(pipeline.owner, count)
            return count / took_s

    async def copy() -> float:
        return await copy_rate(server, rows, count)

    await project()  # makes the rows that COPY takes
    ours, theirs = await in_turn("projector : COPY", size.rounds, project, copy)
    return [Ratio("ledger projector, exactly once ÷ raw COPY", "events/s", at_least(0.60), ours, theirs)]
