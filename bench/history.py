"""A ledger that has grown over many days, made by the projector's own means under a database clock that is moved."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from audit_backends.ledger.postgres import PostgresLedger
from audit_contracts.codec import BatchHead
from audit_contracts.ports.event_queue import Delivery
from audit_kit.clock import SystemClock
from audit_projector.ledger import APPEND_EVENTS_MAX
from audit_projector.preparing import OpenedBatch, Preparer
from bench.copying import Wrong
from bench.harness import progress
from bench.service import TENANT, Service
from bench.workload import events

DAYS = 100


async def fill(running: Service, count: int) -> None:
    """Record `count` entries, as many on each of the last 100 days."""
    per_day = count // DAYS
    async with running.keyring("projector") as (pool, keyring):
        clock = SystemClock()
        ledger = PostgresLedger(pool)
        preparer = Preparer(ledger=ledger, keyring=keyring, clock=clock)
        for days_ago in range(DAYS, 0, -1):
            await _move_clock(running, days_ago)
            made = events(per_day, seed=days_ago, at=datetime.now(UTC) - timedelta(days=days_ago))
            for at in range(0, per_day, APPEND_EVENTS_MAX):
                part = made[at : at + APPEND_EVENTS_MAX]
                head = BatchHead(uuid.uuid4(), uuid.uuid4(), clock.now_us(), len(part))
                opened = OpenedBatch(Delivery(TENANT, b"", "", 1), head, part)
                result = await ledger.append([await preparer.prepare(opened)])
                if result.appended != len(part):
                    raise Wrong(f"{result.appended} of {len(part)} entries were recorded")
            if not days_ago % 20:
                progress(f"history of {count:,}: {days_ago} days to go")
        preparer.close()
    await _move_clock(running, 0)
    # As autovacuum leaves it.
    await running.owner.execute("VACUUM (ANALYZE) auditlog.entries")
    await running.owner.execute("VACUUM (ANALYZE) auditlog.spans")
    await running.owner.execute("CHECKPOINT")


async def _move_clock(running: Service, days_ago: int) -> None:
    await running.owner.execute(
        "CREATE OR REPLACE FUNCTION auditlog.now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE "
        f"AS $$SELECT clock_timestamp() - interval '{days_ago} days'$$"
    )
