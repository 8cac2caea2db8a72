"""The projector under redelivery, races, poison, rotation and crashes: every event once, at a position without gaps."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from audit_contracts.codec import BatchCodec
from audit_contracts.errors import AppendUnknown, LedgerUnavailable, QueueUnavailable
from audit_contracts.event import Event
from audit_contracts.ids import conflict_id
from audit_contracts.ports.event_queue import Message
from audit_contracts.ports.ledger import AppendResult, DeadLetter, PreparedBatch
from audit_contracts.principal import TenantId
from tests.events import NOW_US, an_event
from tests.pipeline import Pipeline, open_pipeline, projecting
from tests.services import Database

DEAD = "SELECT count(*) FROM auditlog.dead_letters"


@pytest.fixture
async def pipeline(database: Database) -> AsyncIterator[Pipeline]:
    async with open_pipeline(database) as opened:
        yield opened


def events(count: int, **fields: Any) -> list[Event]:
    return [an_event(**({"user_id": f"user-{i % 7}", "resource_id": f"r-{i}"} | fields)) for i in range(count)]


async def test_what_is_sent_stands_in_the_ledger_once(pipeline: Pipeline) -> None:
    acme, globex = await pipeline.new_tenant("acme"), await pipeline.new_tenant("globex")
    ours, theirs = events(300), events(5)
    await pipeline.send(
        await pipeline.message(acme, *ours[:1]),
        await pipeline.message(acme, *ours[1:]),
        await pipeline.message(globex, *theirs),
    )
    async with projecting(pipeline.projector()):
        await pipeline.drained()
    await pipeline.verify(acme, ours)
    await pipeline.verify(globex, theirs)


async def test_a_redelivered_batch_adds_nothing(pipeline: Pipeline) -> None:
    acme = await pipeline.new_tenant("acme")
    sent = events(10)
    message = await pipeline.message(acme, *sent)
    await pipeline.send(message, message)
    async with projecting(pipeline.projector()):
        await pipeline.drained()
        await pipeline.send(message)
        await pipeline.drained()
    await pipeline.verify(acme, sent)


async def test_projectors_that_race_write_each_event_once(pipeline: Pipeline) -> None:
    tenants = [await pipeline.new_tenant(name) for name in ("acme", "globex", "initech")]
    sent: dict[TenantId, list[Event]] = {tenant: [] for tenant in tenants}
    messages: list[Message] = []
    for i in range(60):
        tenant = tenants[0] if i % 3 else tenants[i % 2 + 1]  # one hot, two cold
        made = events(1 + i % 9)
        sent[tenant] += made
        messages.append(await pipeline.message(tenant, *made))
    # Every third message twice, as a queue may deliver it.
    await pipeline.send(*messages, *messages[::3])
    async with projecting(*[pipeline.projector() for _ in range(3)]):
        await pipeline.drained()
    for tenant in tenants:
        await pipeline.verify(tenant, sent[tenant])


async def test_a_held_tenant_blocks_no_other_and_comes_in_after(pipeline: Pipeline, database: Database) -> None:
    acme, globex = await pipeline.new_tenant("acme"), await pipeline.new_tenant("globex")
    ours, theirs = events(3), events(3)
    holder = await asyncpg.connect(database.owner_url)
    async with projecting(pipeline.projector()):
        async with holder.transaction():
            await holder.execute("SELECT 1 FROM auditlog.heads WHERE tenant = 'acme' FOR UPDATE")
            await pipeline.send(await pipeline.message(acme, *ours))
            await pipeline.send(await pipeline.message(globex, *theirs))
            await pipeline.until("SELECT count(*) FROM auditlog.entries WHERE tenant = 'globex'", 3)
            assert not await pipeline.rows(acme)
        await pipeline.drained()
    await holder.close()
    await pipeline.verify(acme, ours)


async def test_one_bad_event_in_five_thousand_costs_that_event_alone(pipeline: Pipeline) -> None:
    acme = await pipeline.new_tenant("acme")
    sent = events(5_000)
    bad = an_event(resource_id="nul \0 inside")
    await pipeline.send(await pipeline.message(acme, *sent[:3_333], bad, *sent[3_333:]))
    other = events(2)
    await pipeline.send(await pipeline.message(acme, *other))
    async with projecting(pipeline.projector()):
        await pipeline.drained()
    await pipeline.verify(acme, sent + other)
    letter = await pipeline.owner.fetchrow("SELECT * FROM auditlog.dead_letters")
    assert letter is not None
    assert (letter["ordinal"], letter["reason"], letter["detail"]) == (3_333, "unwritable", "22021")


async def test_a_dead_letter_that_is_replayed_twice_comes_in_once(pipeline: Pipeline) -> None:
    acme = await pipeline.new_tenant("acme")
    bad, good = an_event(action="\0"), an_event()
    await pipeline.send(await pipeline.message(acme, bad, good))
    async with projecting(pipeline.projector()):
        await pipeline.drained()
        letter = await pipeline.owner.fetchrow("SELECT * FROM auditlog.dead_letters")
        assert letter is not None
        # What was refused is accepted now; here the message is made good instead of the database.
        key = await pipeline.keys.transport_key(acme)
        replayed = BatchCodec().open(acme, letter["message"], key)
        assert replayed == [bad]
        mended = an_event(id=bad.id)
        body = BatchCodec().seal(acme, letter["replay_batch_id"], NOW_US, [mended], key)
        for _ in range(2):
            await pipeline.send(Message(acme, letter["replay_batch_id"], body))
            await pipeline.drained()
    await pipeline.verify(acme, [good, mended])


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "foreign"])
async def test_a_message_whose_seal_fails_is_dead_whole_and_kept_as_it_came(pipeline: Pipeline, damage: str) -> None:
    acme, globex = await pipeline.new_tenant("acme"), await pipeline.new_tenant("globex")
    made = await pipeline.message(acme, an_event())
    body = {
        "flipped": made.body[:-1] + bytes([made.body[-1] ^ 1]),
        "cut": made.body[:40],
        "empty": b"",
        "foreign": made.body,
    }[damage]
    tenant = globex if damage == "foreign" else acme
    sent = events(2)
    await pipeline.send(Message(tenant, made.batch_id, body), await pipeline.message(acme, *sent))
    async with projecting(pipeline.projector()):
        await pipeline.drained()
    await pipeline.verify(acme, sent)
    assert not await pipeline.rows(globex)
    assert await pipeline.owner.fetchval("SELECT array_agg(message) FROM auditlog.dead_letters") == [body]


async def test_under_a_wrong_root_key_batches_wait_and_none_is_dead(pipeline: Pipeline, database: Database) -> None:
    acme = await pipeline.new_tenant("acme")
    sent = events(3)
    await pipeline.send(await pipeline.message(acme, *sent))
    async with open_pipeline(database) as strange, projecting(strange.projector()):
        # Received, and given back for later.
        await pipeline.until("SELECT receives > 0 AND receipt IS NULL FROM auditlog_queue.messages", True)
    assert await pipeline.owner.fetchval(DEAD) == 0
    await pipeline.owner.execute("UPDATE auditlog_queue.messages SET visible_at = auditlog.now()")
    async with projecting(pipeline.projector()):
        await pipeline.drained()
    await pipeline.verify(acme, sent)


async def test_conflicting_ids_are_recorded_apart_and_flagged(pipeline: Pipeline) -> None:
    acme = await pipeline.new_tenant("acme")
    log_id = await pipeline.ledger.log_id(acme)
    client_id = uuid.uuid4()
    first, other, third = (an_event(id=client_id, fingerprint=mark * 16) for mark in (b"a", b"b", b"c"))
    async with projecting(pipeline.projector()):
        for batch in ([first, other, first], [third], [other], [first]):
            await pipeline.send(await pipeline.message(acme, *batch))
            await pipeline.drained()
    rows = await pipeline.rows(acme)
    assert [(row["id"], row["flags"]) for row in rows] == [
        (client_id, None),
        (conflict_id(log_id, client_id, b"b" * 16), [f"conflict_of:{client_id}"]),
        (conflict_id(log_id, client_id, b"c" * 16), [f"conflict_of:{client_id}"]),
    ]


async def test_projectors_that_race_for_one_id_record_both_events(pipeline: Pipeline) -> None:
    acme = await pipeline.new_tenant("acme")
    ids = [uuid.uuid4() for _ in range(20)]
    messages = [
        await pipeline.message(acme, an_event(id=client_id, fingerprint=bytes([mark]) * 16))
        for client_id in ids
        for mark in range(3)
    ]
    random.Random(5).shuffle(messages)
    await pipeline.send(*messages)
    async with projecting(*[pipeline.projector() for _ in range(3)]):
        await pipeline.drained()
    rows = await pipeline.rows(acme)
    assert len(rows) == len({row["id"] for row in rows}) == 60
    assert {row["id"] for row in rows} >= set(ids)


async def test_key_rotation_rewrites_nothing_and_opens_everything(pipeline: Pipeline) -> None:
    acme = await pipeline.new_tenant("acme")
    before, after = events(5), events(5)
    early = await pipeline.message(acme, *before)
    async with projecting(pipeline.projector()):
        await pipeline.send(early)
        await pipeline.drained()
    kept = await pipeline.rows(acme)
    await pipeline.registry.rotate_keys(acme)
    pipeline.renew_keys()
    async with projecting(pipeline.projector()):
        await pipeline.send(await pipeline.message(acme, *after))
        await pipeline.drained()
    assert (await pipeline.rows(acme))[:5] == kept
    await pipeline.verify(acme, before + after)
    assert await pipeline.owner.fetchval("SELECT count(DISTINCT tenant_key_id) FROM auditlog.owner_keys") == 2


async def test_the_last_use_of_a_key_is_read_from_what_it_submitted(pipeline: Pipeline) -> None:
    acme = await pipeline.new_tenant("acme")
    key_id = uuid.uuid4()
    await pipeline.owner.execute(
        "INSERT INTO auditlog.api_keys (tenant, key_id, name, role, data_scope, secret_hash, created_at, created_by) "
        "VALUES ('acme', $1, 'k', 'producer', '{}', sha256('x'), auditlog.now(), 'me')",
        key_id,
    )
    async with projecting(pipeline.projector()):
        await pipeline.send(await pipeline.message(acme, an_event(submitted_by=f"key|{key_id}")))
        await pipeline.until(
            "SELECT extract(epoch FROM max(last_used_at))::bigint FROM auditlog.api_keys", 1_790_000_000
        )


class _FlakyLedger:
    """The ledger behind a wire that fails before, or after, what it carries was done."""

    def __init__(self, pipeline: Pipeline, seed: int) -> None:
        self._ledger = pipeline.ledger
        self._random = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def append(
        self, batches: Sequence[PreparedBatch], dead_letters: Sequence[DeadLetter] = (), *, dry_run: bool = False
    ) -> AppendResult:
        fate = self._random.random()
        if fate < 0.3:
            raise LedgerUnavailable("failed and not done")
        result = await self._ledger.append(batches, dead_letters, dry_run=dry_run)
        if fate < 0.6:
            raise AppendUnknown("failed but done")
        return result


class _FlakyQueue:
    """The projector's queue, whose deletes fail before or after they are done."""

    def __init__(self, pipeline: Pipeline, seed: int) -> None:
        self._queue = pipeline.projector_queue
        self._random = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def receive(self, *, messages_max: int, wait_s: float, visibility_s: float) -> Any:
        # Visible again at once now and then, as if work had taken longer than its time.
        hidden_s = 0.0 if self._random.random() < 0.3 else visibility_s
        return await self._queue.receive(messages_max=3, wait_s=wait_s, visibility_s=hidden_s)

    async def delete(self, deliveries: Any) -> None:
        fate = self._random.random()
        if fate < 0.3:
            await self._queue.release(deliveries, delay_s=0)
            raise QueueUnavailable("failed and not done")
        await self._queue.delete(deliveries)
        if fate < 0.6:
            raise QueueUnavailable("failed but done")


@pytest.mark.parametrize("seed", range(3))
async def test_failures_of_both_kinds_lose_and_double_nothing(
    pipeline: Pipeline, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_projector.ledger.PAUSE_S", 0.01)
    acme = await pipeline.new_tenant("acme")
    sent: list[Event] = []
    for i in range(25):
        made = events(1 + i % 4)
        sent += made
        await pipeline.send(await pipeline.message(acme, *made))
    projectors = [
        pipeline.projector(
            ledger=_FlakyLedger(pipeline, seed * 10 + i),
            queue=_FlakyQueue(pipeline, seed * 10 + i),
        )
        for i in range(2)
    ]
    async with projecting(*projectors):
        await pipeline.drained()
    await pipeline.verify(acme, sent)


@pytest.mark.parametrize("seed", range(3))
async def test_a_projector_cut_off_at_any_point_loses_and_doubles_nothing(
    pipeline: Pipeline, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_projector.ledger.VISIBILITY_S", 0.2)
    acme = await pipeline.new_tenant("acme")
    chance = random.Random(seed)
    sent: list[Event] = []
    for i in range(40):
        made = events(1 + i % 30)
        sent += made
        await pipeline.send(await pipeline.message(acme, *made))
    for _ in range(8):
        running = asyncio.create_task(pipeline.projector().run(asyncio.Event()))
        await asyncio.sleep(chance.random() * 0.1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    async with projecting(pipeline.projector()):
        await pipeline.drained()
    await pipeline.verify(acme, sent)


async def test_a_stopping_projector_writes_what_it_has_in_hand(pipeline: Pipeline) -> None:
    acme = await pipeline.new_tenant("acme")
    sent = events(2_000)
    for at in range(0, 2_000, 100):
        await pipeline.send(await pipeline.message(acme, *sent[at : at + 100]))
    async with projecting(pipeline.projector()):
        await pipeline.until("SELECT count(*) > 0 FROM auditlog.entries", True)
    # Nothing is left in hand: whatever still lies in the queue is visible to the next one.
    written, left = (
        await pipeline.owner.fetchval("SELECT count(*) FROM auditlog.entries"),
        await pipeline.owner.fetchval("SELECT count(*) FROM auditlog_queue.messages"),
    )
    assert written + left * 100 == 2_000


async def test_what_is_too_much_for_one_hand_goes_back_and_comes_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_projector.ledger.IN_HAND_EVENTS_MAX", 10)
    acme = await pipeline.new_tenant("acme")
    batches = [events(4) for _ in range(30)]
    await pipeline.send(*[await pipeline.message(acme, *batch) for batch in batches])
    projector = pipeline.projector()
    async with projecting(projector):
        await pipeline.drained()
    await pipeline.verify(acme, [event for batch in batches for event in batch])


async def test_an_unknown_tenant_is_dead_lettered_and_blocks_nobody(pipeline: Pipeline) -> None:
    acme = await pipeline.new_tenant("acme")
    made = await pipeline.message(acme, an_event())
    await pipeline.send(Message(TenantId("nobody"), made.batch_id, made.body))
    async with projecting(pipeline.projector()):
        await pipeline.until(DEAD, 1)
        await pipeline.drained()
