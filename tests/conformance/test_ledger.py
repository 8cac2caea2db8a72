"""What every ledger promises to who writes it. Read back through the owner's own connection."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from audit_contracts.errors import NotFound
from audit_contracts.event import Event
from audit_contracts.ids import conflict_id, uuid7
from audit_contracts.ports.ledger import DeadLetter, PreparedBatch, Unwritable
from audit_contracts.principal import TenantId
from audit_contracts.record import Sealer
from audit_contracts.times import from_us
from tests.backends import LEDGERS, OpenLedger
from tests.events import NOW_US, OWNER_KEY, a_batch, an_event, an_owner_key
from tests.pipeline import recomputed_leaf_hash
from tests.services import Database


@pytest.fixture(params=LEDGERS)
async def ledger(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[OpenLedger]:
    async with LEDGERS[request.param](database) as opened:
        yield opened


def named(fingerprint: bytes = b"f" * 16, **fields: object) -> Event:
    """An event whose id a client made."""
    return an_event(**({"id": uuid.uuid4(), "fingerprint": fingerprint} | fields))


async def test_events_stand_at_positions_without_gaps_from_zero(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    batches = [a_batch(acme, log_id, *[an_event() for _ in range(n)]) for n in (3, 1, 5)]
    result = await ledger.ledger.append(batches)
    await ledger.ledger.append([a_batch(acme, log_id, an_event())])

    rows = await ledger.rows(acme)

    assert (result.appended, list(result.done)) == (9, [0, 1, 2])
    assert [row["position"] for row in rows] == list(range(10))
    assert [row["id"] for row in rows[:9]] == [p.event.id for batch in batches for p in batch.events]


async def test_every_column_is_kept_as_it_was(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    full = an_event(
        source="billing",
        subject_id="subject ünïcode 𝄞",
        session_id="sess",
        ip_address="2001:db8::1",
        user_agent="agent",
        request_id="r-1",
        correlation_id="c-1",
        trace_id="t-1",
        producer_id="p-1",
        producer_seq=2**63 - 1,
        flags=["late", "clock_skew"],
        changes=b'{"before":{"a":1}}',
    )
    await ledger.ledger.append([a_batch(acme, log_id, full, an_event(content=None))])

    row, bare = await ledger.rows(acme)

    columns = set(Event.__struct_fields__) & set(row.keys())
    assert {name: row[name] for name in columns} == {name: getattr(full, name) for name in columns}
    assert (row["timestamp"], row["received_at"]) == (from_us(full.timestamp_us), from_us(full.received_at_us))
    assert bare["source"] is bare["flags"] is bare["producer_seq"] is None
    opened = Sealer().open(log_id, full.id, row["sealed"], OWNER_KEY)
    assert opened.data(3) == full.changes
    assert opened.data(4) == full.content
    assert opened.root() == row["root"]


async def test_leaf_hashes_follow_from_what_is_kept(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    await ledger.ledger.append([a_batch(acme, log_id, *[an_event(flags=["late"] * (i % 2)) for i in range(20)])])
    for row in await ledger.rows(acme):
        assert row["leaf_hash"] == recomputed_leaf_hash(log_id, row)


async def test_a_batch_comes_in_once_however_often_it_is_appended(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    batch = a_batch(acme, log_id, an_event(), an_event())
    await ledger.ledger.append([batch, batch])
    result = await ledger.ledger.append([batch])
    assert (list(result.done), result.appended, result.repeats) == ([0], 0, 2)
    assert len(await ledger.rows(acme)) == 2


async def test_a_client_made_id_with_the_same_fingerprint_is_a_repeat(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    event = named()
    await ledger.ledger.append([a_batch(acme, log_id, event, event)])
    result = await ledger.ledger.append([a_batch(acme, log_id, event, an_event())])
    assert (result.appended, result.repeats) == (1, 1)
    assert [row["position"] for row in await ledger.rows(acme)] == [0, 1]
    assert await ledger.ledger.known_ids(acme, [event.id, uuid.uuid4()]) == {event.id: event.fingerprint}


async def test_a_client_made_id_with_another_fingerprint_is_stale_and_writes_nothing(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    event = named()
    other = named(b"g" * 16, id=event.id)
    await ledger.ledger.append([a_batch(acme, log_id, event)])
    result = await ledger.ledger.append([a_batch(acme, log_id, an_event(), other), a_batch(acme, log_id, an_event())])
    assert (list(result.stale), list(result.done), result.appended) == ([0], [1], 1)

    moved = named(b"g" * 16, id=conflict_id(log_id, event.id, b"g" * 16), flags=[f"conflict_of:{event.id}"])
    for _ in range(2):
        await ledger.ledger.append([a_batch(acme, log_id, moved)])
    assert [row["id"] for row in await ledger.rows(acme)][2:] == [moved.id]


async def test_one_id_twice_in_a_batch_with_two_fingerprints_is_stale(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    event = named()
    result = await ledger.ledger.append([a_batch(acme, log_id, event, named(b"g" * 16, id=event.id))])
    assert list(result.stale) == [0]
    assert not await ledger.rows(acme)


async def test_a_batch_sealed_for_another_log_is_stale(ledger: OpenLedger) -> None:
    acme, _ = await ledger.new_tenant("acme")
    result = await ledger.ledger.append([a_batch(acme, bytes(16), an_event())])
    assert (list(result.stale), result.appended) == ([0], 0)


async def test_two_tenants_may_use_the_same_ids(ledger: OpenLedger) -> None:
    event, batch_id = named(), uuid.uuid4()
    for name in ("acme", "globex"):
        tenant, log_id = await ledger.new_tenant(name)
        await ledger.ledger.append([a_batch(tenant, log_id, event, batch_id=batch_id)])
        assert [row["position"] for row in await ledger.rows(tenant)] == [0]


async def test_a_batch_redelivered_after_its_id_is_forgotten_adds_nothing(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    batch = a_batch(acme, log_id, an_event(), named(), redelivered_late=True)
    await ledger.ledger.append([batch])
    await ledger.owner.execute("UPDATE auditlog.batch_ids SET recorded_at = auditlog.now() - interval '29 days'")
    await ledger.ledger.housekeep()
    assert await ledger.owner.fetchval("SELECT count(*) FROM auditlog.batch_ids") == 0

    result = await ledger.ledger.append([batch])

    assert (list(result.done), result.appended, result.repeats) == ([0], 0, 2)


async def test_writers_that_race_leave_no_gap_and_no_repeat(ledger: OpenLedger) -> None:
    tenants = [await ledger.new_tenant(name) for name in ("acme", "globex", "initech")]
    batches = [
        a_batch(tenant, log_id, *[an_event() for _ in range(rng)])
        for tenant, log_id in tenants
        for rng in (1, 4, 2, 7, 3, 9, 1, 1)
    ]

    async def write(seed: int) -> None:
        writer, mine = ledger.new_ledger(), list(batches)
        random.Random(seed).shuffle(mine)
        while mine:
            result = await writer.append(mine[:5])
            assert not result.stale
            mine = [batch for i, batch in enumerate(mine[:5]) if i in result.busy] + mine[5:]

    await asyncio.gather(*[write(seed) for seed in range(4)])

    for tenant, _ in tenants:
        rows = await ledger.rows(tenant)
        assert [row["position"] for row in rows] == list(range(28))
        assert len({row["id"] for row in rows}) == 28


async def test_a_head_in_use_is_busy_and_blocks_nobody(ledger: OpenLedger) -> None:
    acme, acme_log = await ledger.new_tenant("acme")
    globex, globex_log = await ledger.new_tenant("globex")
    batches = [a_batch(acme, acme_log, an_event()), a_batch(globex, globex_log, an_event())]
    async with ledger.owner.transaction():
        await ledger.owner.execute("SELECT 1 FROM auditlog.heads WHERE tenant = 'acme' FOR UPDATE")
        result = await ledger.ledger.append(batches)
    assert (list(result.busy), list(result.done)) == ([0], [1])
    assert not await ledger.rows(acme)


async def test_recorded_at_never_goes_back_under_a_clock_that_jumps(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    for at in ("2026-03-01 10:00Z", "2026-03-01 09:57Z", "2026-03-02 00:00Z", "2026-03-01 23:59Z"):
        await ledger.stop_clock(at)
        await ledger.ledger.append([a_batch(acme, log_id, an_event())])
    recorded = [row["recorded_at"] for row in await ledger.rows(acme)]
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert recorded == [midnight - timedelta(hours=14), midnight - timedelta(hours=14), midnight, midnight]


async def test_a_clock_that_jumps_far_back_finds_its_days_too(ledger: OpenLedger) -> None:
    for name, at in (("acme", "2026-03-01 10:00Z"), ("globex", "2025-11-05 10:00Z"), ("initech", "2026-03-02 10:00Z")):
        tenant, log_id = await ledger.new_tenant(name)
        await ledger.stop_clock(at)
        assert (await ledger.ledger.append([a_batch(tenant, log_id, an_event())])).appended == 1


async def test_a_head_far_ahead_of_the_clock_stands_still_and_stops_no_other(ledger: OpenLedger) -> None:
    acme, acme_log = await ledger.new_tenant("acme")
    globex, globex_log = await ledger.new_tenant("globex")
    await ledger.stop_clock("2026-03-01 10:06Z")
    await ledger.ledger.append([a_batch(acme, acme_log, an_event())])
    await ledger.stop_clock("2026-03-01 10:00Z")
    result = await ledger.ledger.append([a_batch(acme, acme_log, an_event()), a_batch(globex, globex_log, an_event())])
    assert (list(result.ahead), list(result.done)) == ([0], [1])
    assert len(await ledger.rows(acme)) == 1


async def test_each_day_has_its_partition_and_its_span(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    for day, count in (("2026-03-01", 2), ("2026-03-02", 3), ("2026-05-20", 1)):
        await ledger.stop_clock(f"{day} 12:00Z")
        for i in range(count):
            event = an_event(timestamp_us=NOW_US - i * 1_000_000)
            await ledger.ledger.append([a_batch(acme, log_id, event)])

    spans = await ledger.owner.fetch("SELECT * FROM auditlog.spans ORDER BY day")

    assert [(s["day"].isoformat(), s["first_position"], s["last_position"]) for s in spans] == [
        ("2026-03-01", 0, 1),
        ("2026-03-02", 2, 4),
        ("2026-05-20", 5, 5),
    ]
    assert [s["max_timestamp"] - s["min_timestamp"] for s in spans] == [timedelta(seconds=n) for n in (1, 2, 0)]
    tables = {row["tableoid"] for row in await ledger.owner.fetch("SELECT DISTINCT tableoid FROM auditlog.entries")}
    assert len(tables) == 3


@pytest.mark.parametrize(
    "poison",
    [
        {"resource_id": "a\0b"},
        {"action": "\0"},
        {"timestamp_us": 2**62},
        {"timestamp_us": -1},
        {"producer_seq": 2**64},
        {"user_id": "u" * 100_000},
    ],
)
async def test_content_that_the_database_refuses_is_unwritable_and_writes_nothing(
    ledger: OpenLedger, poison: dict[str, object]
) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    good, bad = a_batch(acme, log_id, an_event()), a_batch(acme, log_id, an_event(), an_event(**poison))
    if "user_id" in poison:  # incompressible, so that no index entry can hold it
        bad = a_batch(acme, log_id, an_event(user_id="".join(random.Random(1).choices("0123456789abcdef", k=100_000))))
    with pytest.raises(Unwritable):
        await ledger.ledger.append([good, bad])
    assert not await ledger.rows(acme)
    assert (await ledger.ledger.append([good])).appended == 1


async def test_a_dry_run_tries_everything_and_keeps_nothing(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    batch = a_batch(acme, log_id, an_event())
    assert (await ledger.ledger.append([batch], dry_run=True)).appended == 1
    assert not await ledger.rows(acme)
    assert (await ledger.ledger.append([batch])).appended == 1


async def test_dead_letters_come_in_once_and_are_listed_until_replayed(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    globex, _ = await ledger.new_tenant("globex")
    batch: PreparedBatch = a_batch(acme, log_id, an_event())
    letters = [
        DeadLetter(acme, batch.batch_id, ordinal, uuid.uuid4(), "unwritable", "22021", b"sealed")
        for ordinal in (None, 0, 4)
    ]
    for _ in range(2):
        await ledger.ledger.append([batch], letters)

    listed = await ledger.dead_letters.dead_letters(acme, after=0, limit=10, replayed=False)
    assert [(d.ordinal, d.message) for d in listed] == [(None, b"sealed"), (0, b"sealed"), (4, b"sealed")]
    assert not await ledger.dead_letters.dead_letters(globex, after=0, limit=10, replayed=True)

    await ledger.dead_letters.mark_replayed(acme, [listed[0].dead_letter_id])
    left = await ledger.dead_letters.dead_letters(acme, after=0, limit=10, replayed=False)
    assert [d.ordinal for d in left] == [0, 4]
    assert len(await ledger.dead_letters.dead_letters(acme, after=0, limit=10, replayed=True)) == 3


async def test_the_first_writer_of_an_owners_key_wins(ledger: OpenLedger) -> None:
    acme, _ = await ledger.new_tenant("acme")
    first, other = an_owner_key(b"o" * 16), an_owner_key(b"p" * 16)
    assert await ledger.ledger.add_owner_keys(acme, [first]) == {first.tag: first}
    second = an_owner_key(first.tag)
    assert await ledger.ledger.add_owner_keys(acme, [second, other]) == {first.tag: first, other.tag: other}
    assert await ledger.ledger.owner_keys(acme, first.tenant_key_id, [first.tag, b"q" * 16]) == {first.tag: first}
    assert not await ledger.ledger.owner_keys(TenantId("globex"), first.tenant_key_id, [first.tag])


async def test_a_tenant_that_does_not_exist_has_no_log(ledger: OpenLedger) -> None:
    with pytest.raises(NotFound):
        await ledger.ledger.log_id(TenantId("nobody"))


async def test_ids_made_by_the_server_are_not_kept_apart(ledger: OpenLedger) -> None:
    acme, log_id = await ledger.new_tenant("acme")
    await ledger.ledger.append([a_batch(acme, log_id, an_event(id=uuid7(NOW_US)), named())])
    assert await ledger.owner.fetchval("SELECT array_agg(position) FROM auditlog.event_ids") == [1]
