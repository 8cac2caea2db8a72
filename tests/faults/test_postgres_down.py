"""PostgreSQL killed at random points, out of reach, or on a full disk: what was acknowledged stands, once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import asyncpg
import pytest

from audit_contracts.errors import NotDone
from audit_contracts.event import Event
from tests.events import an_event
from tests.pipeline import Pipeline, open_pipeline, projecting
from tests.services import SmallDiskPostgres, ThrowawayPostgres

DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


async def send_until_taken(pipeline: Pipeline, *messages: object) -> None:
    """Send as ingest does: the identical message again until the queue has it."""
    left = list(messages)
    async with asyncio.timeout(60):
        while left:
            outcomes = await pipeline.queue.send(left)  # type: ignore[arg-type]
            left = [message for message, outcome in zip(left, outcomes, strict=True) if outcome is not None]
            if left:
                await asyncio.sleep(0.05)  # as a producer waits for its Retry-After


@pytest.mark.parametrize("seed", range(2))
async def test_a_killed_postgres_loses_and_doubles_nothing_that_was_acknowledged(
    throwaway_postgres: ThrowawayPostgres, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_projector.ledger.PAUSE_S", 0.05)
    monkeypatch.setattr("audit_projector.ledger.VISIBILITY_S", 2.0)
    chance = random.Random(seed)
    acknowledged: list[Event] = []
    async with open_pipeline(throwaway_postgres.database) as pipeline:
        for name in DURABLE:
            assert await pipeline.owner.fetchval("SELECT current_setting($1)", name) == "on"
        acme = await pipeline.new_tenant("acme")
        await pipeline.keys.transport_key(acme)
        producing = True

        async def produce() -> None:
            while producing:
                made = [an_event(user_id=f"u{chance.randrange(5)}") for _ in range(1 + chance.randrange(40))]
                await send_until_taken(pipeline, await pipeline.message(acme, *made))
                acknowledged.extend(made)

        async with projecting(pipeline.projector(), pipeline.projector()):
            producer = asyncio.create_task(produce())
            for _ in range(4):
                await asyncio.sleep(0.1 + chance.random() * 0.5)
                await throwaway_postgres.kill()
                await throwaway_postgres.start()
            producing = False
            await producer
            await pipeline.owner.close()
            pipeline.owner = await asyncpg.connect(throwaway_postgres.database.owner_url)
            await pipeline.drained(timeout_s=120)
        assert len(acknowledged) > 40
        await pipeline.verify(acme, acknowledged)
        await pipeline.owner.close()


async def test_a_queue_out_of_reach_takes_nothing_and_says_so(throwaway_postgres: ThrowawayPostgres) -> None:
    async with open_pipeline(throwaway_postgres.database) as pipeline:
        acme = await pipeline.new_tenant("acme")
        message = await pipeline.message(acme, an_event())
        await throwaway_postgres.stop()
        assert [isinstance(outcome, NotDone) for outcome in await pipeline.queue.send([message])] == [True]


async def test_a_full_disk_takes_nothing_and_recovers(
    small_disk_postgres: SmallDiskPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_projector.ledger.PAUSE_S", 0.05)
    monkeypatch.setattr("audit_projector.ledger.VISIBILITY_S", 2.0)
    acknowledged: list[Event] = []
    refused = 0
    async with open_pipeline(small_disk_postgres.database) as pipeline:
        acme = await pipeline.new_tenant("acme")
        before = [an_event() for _ in range(50)]
        await send_until_taken(pipeline, await pipeline.message(acme, *before))
        acknowledged += before
        async with projecting(pipeline.projector()):
            small_disk_postgres.fill_disk()
            for i in range(60):
                made = [an_event(user_agent=chance_text(i, 2_000)) for _ in range(40)]
                message = await pipeline.message(acme, *made)
                with suppress(TimeoutError):
                    outcome = (await pipeline.queue.send([message]))[0]
                    if outcome is None:
                        acknowledged += made
                    else:
                        refused += 1
            assert refused > 0
            small_disk_postgres.free_disk()
            await small_disk_postgres.stop()
            await small_disk_postgres.start()
            await pipeline.owner.close()
            pipeline.owner = await asyncpg.connect(small_disk_postgres.database.owner_url)
            after = [an_event() for _ in range(5)]
            await send_until_taken(pipeline, await pipeline.message(acme, *after))
            acknowledged += after
            await pipeline.drained(timeout_s=120)
        rows = await pipeline.rows(acme)
        # What was refused with an unknown outcome may stand there too, once; what was acknowledged must.
        ids = [row["id"] for row in rows]
        assert len(ids) == len(set(ids))
        assert {event.id for event in acknowledged} <= set(ids)
        assert [row["position"] for row in rows] == list(range(len(rows)))
        await pipeline.owner.close()


def chance_text(seed: int, length: int) -> str:
    """Text that does not compress away."""
    return "".join(random.Random(seed).choices("0123456789abcdefghijklmnopqrstuvwxyz", k=length))
