"""What every ledger promises to who reads it. Filled through the port that the projector writes to."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from audit_contracts.errors import LedgerUnavailable, NotFound
from audit_contracts.event import Event
from audit_contracts.ids import conflict_id, uuid7
from audit_contracts.ports.ledger import LedgerReader, LedgerRow, PreparedBatch, PreparedEvent
from audit_contracts.principal import DataScope, TenantId
from audit_contracts.query import ALL, Direction, Filter, Sight
from audit_contracts.record import Sealer
from audit_contracts.times import from_us, to_us
from tests.backends import LEDGER_READERS, OpenReader
from tests.events import NOW_US, OWNER_KEY, a_batch, an_event, an_owner_key
from tests.questions import events, filters, is_match, sights
from tests.services import Database

FIRST_DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERYTHING = Filter(include_access=True)


@pytest.fixture(params=LEDGER_READERS)
async def opened(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[OpenReader]:
    async with LEDGER_READERS[request.param](database) as opened:
        yield opened


async def fill(opened: OpenReader, name: str, days: Sequence[Sequence[Event]]) -> TenantId:
    """A new tenant whose events were recorded on successive days."""
    tenant, log_id = await opened.filled.new_tenant(name)
    for day, of_day in enumerate(days):
        await opened.filled.stop_clock((FIRST_DAY + timedelta(days=day)).isoformat())
        await opened.filled.ledger.append([a_batch(tenant, log_id, *of_day)])
    return tenant


async def walked(
    reader: LedgerReader,
    tenant: TenantId,
    *,
    filter: Filter = EVERYTHING,
    sight: Sight = ALL,
    direction: Direction = Direction.OLDEST_FIRST,
    size: int | None = None,
    limit: int = 1_000,
    budget: int = 10_000,
) -> list[LedgerRow]:
    """Everything that a walk finds, slice by slice, with the size pinned by the first."""
    found: list[LedgerRow] = []
    start = None
    while True:
        head, slice_ = await reader.walk(
            tenant,
            filter=filter,
            sight=sight,
            direction=direction,
            start=start,
            size=size,
            limit=limit,
            budget=budget,
        )
        size = head.next_position if size is None else size
        assert len(slice_.rows) <= limit
        found += slice_.rows
        if slice_.next_position is None:
            return found
        assert start is None or start != slice_.next_position, "the walk stands still"
        start = slice_.next_position


def positions(rows: Sequence[LedgerRow]) -> list[int]:
    return [row.position for row in rows]


async def test_an_empty_log_has_a_head_and_no_rows(opened: OpenReader) -> None:
    acme, log_id = await opened.filled.new_tenant("acme")

    head = await opened.reader.head(acme)

    assert (head.log_id, head.next_position, head.recorded_at) == (log_id, 0, None)
    for direction in Direction:
        assert await walked(opened.reader, acme, direction=direction) == []


async def test_a_tenant_that_never_was_is_not_found(opened: OpenReader) -> None:
    nobody = TenantId("nobody")
    with pytest.raises(NotFound):
        await opened.reader.head(nobody)
    with pytest.raises(NotFound):
        await opened.reader.row(nobody, uuid.uuid4(), sight=ALL)
    with pytest.raises(NotFound):
        await walked(opened.reader, nobody)


async def test_a_row_comes_back_as_it_was_written(opened: OpenReader) -> None:
    event = an_event(
        source="billing",
        session_id="sess",
        request_id="r-1",
        correlation_id="c-1",
        trace_id="t-1",
        producer_id="p-1",
        producer_seq=2**63 - 1,
        flags=["late"],
    )
    acme = await fill(opened, "acme", [[event]])

    (row,) = await walked(opened.reader, acme)

    assert (row.position, row.recorded_at) == (0, FIRST_DAY)
    for field in ("id", "action", "severity", "outcome", "resource_type", "source", "request_id", "correlation_id"):
        assert getattr(row, field) == getattr(event, field)
    assert (row.trace_id, row.producer_id, row.producer_seq) == ("t-1", "p-1", 2**63 - 1)
    assert (to_us(row.timestamp), to_us(row.received_at)) == (event.timestamp_us, event.received_at_us)
    assert (row.schema_version, row.flags) == (1, ["late"])
    opened_record = Sealer().open((await opened.reader.head(acme)).log_id, row.id, row.sealed, OWNER_KEY)
    assert opened_record.root() == row.root
    assert opened_record.data(4) == event.content


async def test_both_directions_see_every_position_once_over_many_days(opened: OpenReader) -> None:
    acme = await fill(opened, "acme", [[an_event() for _ in range(1 + day % 3)] for day in range(9)])
    everything = list(range(sum(1 + day % 3 for day in range(9))))

    for limit in (1, 2, 5, 100):
        assert positions(await walked(opened.reader, acme, limit=limit)) == everything
        newest = await walked(opened.reader, acme, limit=limit, direction=Direction.NEWEST_FIRST)
        assert positions(newest) == everything[::-1]


async def test_a_small_budget_ends_a_slice_early_and_loses_nothing(opened: OpenReader) -> None:
    days = [[an_event(user_id="ada" if i % 7 else "bob") for i in range(10)] for _ in range(4)]
    acme = await fill(opened, "acme", days)
    rare = Filter(equal={"user_id": ("bob",), "severity": ("INFO",)})

    head, first = await opened.reader.walk(
        acme, filter=Filter(equal={"outcome": ("failure",)}), sight=ALL, direction=Direction.NEWEST_FIRST,
        start=None, size=None, limit=50, budget=3,
    )  # fmt: skip

    assert head.next_position == 40
    assert (first.rows, first.next_position) == ([], 36)
    for budget in (1, 3, 25):
        assert len(await walked(opened.reader, acme, filter=rare, budget=budget)) == 8


async def test_a_pinned_size_hides_what_comes_after(opened: OpenReader) -> None:
    acme = await fill(opened, "acme", [[an_event() for _ in range(5)]])
    _, log_id = acme, (await opened.reader.head(acme)).log_id
    await opened.filled.ledger.append([a_batch(acme, log_id, an_event(), an_event())])

    for direction in Direction:
        head, slice_ = await opened.reader.walk(
            acme, filter=EVERYTHING, sight=ALL, direction=direction, start=None, size=5, limit=50, budget=100
        )
        assert head.next_position == 7
        assert sorted(positions(slice_.rows)) == [0, 1, 2, 3, 4]
        assert slice_.next_position is None


async def test_days_that_cannot_hold_a_timestamp_are_not_looked_at(opened: OpenReader) -> None:
    day_us = 86_400_000_000
    acme = await fill(opened, "acme", [[an_event(timestamp_us=NOW_US + day * day_us)] * 5 for day in range(6)])
    third_day = Filter(since=from_us(NOW_US + 2 * day_us), until=from_us(NOW_US + 3 * day_us))

    for direction in Direction:
        _, slice_ = await opened.reader.walk(
            acme, filter=third_day, sight=ALL, direction=direction, start=None, size=None, limit=50, budget=1_000
        )
        assert sorted(positions(slice_.rows)) == [10, 11, 12, 13, 14]
        assert slice_.scanned < 30


async def test_a_tenant_never_sees_another(opened: OpenReader) -> None:
    event = an_event(id=uuid.uuid4(), fingerprint=b"f" * 16)
    acme = await fill(opened, "acme", [[event]])
    other = await fill(opened, "other", [[an_event(user_id="theirs")]])
    key = an_owner_key()
    await opened.filled.ledger.add_owner_keys(acme, [key])

    assert [row.id for row in await walked(opened.reader, acme)] == [event.id]
    assert event.id not in [row.id for row in await walked(opened.reader, other)]
    assert (await opened.reader.row(other, event.id, sight=ALL))[1] is None
    assert await opened.reader.owner_keys(other, [key.key_id]) == {}
    assert await opened.reader.owner_keys(acme, [key.key_id, uuid.uuid4()]) == {key.key_id: key}


async def test_a_row_is_found_by_every_kind_of_id(opened: OpenReader) -> None:
    def at(day: int) -> int:
        return to_us(FIRST_DAY + timedelta(days=day))

    made_by_server = [an_event(id=uuid7(at(day)), received_at_us=at(day)) for day in range(7)]
    client_made = an_event(id=uuid.uuid4(), fingerprint=b"f" * 16)
    # Its time is a lie: a client may name its own version 7.
    client_made_v7 = an_event(id=uuid7(at(6)), fingerprint=b"f" * 16)
    # Waited in the queue for three days, and for an instant only on a clock behind the ingest's.
    late = an_event(id=uuid7(at(0)), received_at_us=at(0))
    early = an_event(id=uuid7(at(4) + 1_000_000))
    days = [[event] for event in made_by_server]
    days[2] += [client_made, client_made_v7]
    days[3].append(late)
    days[4].append(early)
    acme = await fill(opened, "acme", days)
    log_id = (await opened.reader.head(acme)).log_id
    other = an_event(id=conflict_id(log_id, client_made.id, b"g" * 16), fingerprint=b"g" * 16)
    sealed = Sealer().seal(log_id, other, OWNER_KEY)
    await opened.filled.ledger.append([PreparedBatch(acme, log_id, uuid.uuid4(), [PreparedEvent(other, sealed)])])

    for event in (*made_by_server, client_made, client_made_v7, late, early, other):
        head, row = await opened.reader.row(acme, event.id, sight=ALL)
        assert row is not None
        assert row.id == event.id
        assert head.log_id == log_id
    for missing in (uuid.uuid4(), uuid7(at(0)), uuid7(at(9)), uuid.UUID(int=0)):
        assert (await opened.reader.row(acme, missing, sight=ALL))[1] is None


async def test_a_row_outside_of_the_readers_sight_is_not_there(opened: OpenReader) -> None:
    event = an_event(id=uuid.uuid4(), fingerprint=b"f" * 16, resource_type="file", user_id="ada")
    acme = await fill(opened, "acme", [[event]])

    async def sees(sight: Sight) -> bool:
        return (await opened.reader.row(acme, event.id, sight=sight))[1] is not None

    assert await sees(Sight(scope=DataScope(resource_types=frozenset({"file"})), own_entries_of=("ada",)))
    assert not await sees(Sight(scope=DataScope(resource_types=frozenset({"session"}))))
    assert not await sees(Sight(scope=DataScope(sources=frozenset())))
    assert not await sees(Sight(own_entries_of=("bob",)))


async def test_a_count_stops_at_its_cap_and_at_its_budget(opened: OpenReader) -> None:
    acme = await fill(opened, "acme", [[an_event(user_id="ada") for _ in range(10)] for _ in range(8)])
    ada, nobody = Filter(equal={"user_id": ("ada",)}), Filter(equal={"outcome": ("failure",)})

    async def count(filter: Filter, *, size: int = 80, budget: int = 1_000, count_max: int = 100) -> tuple[int, bool]:
        return await opened.reader.count(acme, filter=filter, sight=ALL, size=size, budget=budget, count_max=count_max)

    assert await count(EVERYTHING) == (80, True)
    assert await count(ada) == (80, True)
    assert await count(ada, size=33) == (33, True)
    assert await count(ada, count_max=79) == (79, False)
    assert await count(ada, count_max=80) == (80, True)
    assert (await count(ada, budget=50))[1] is False
    assert await count(nobody, budget=10) == (0, False)
    assert await count(Filter(equal={"user_id": ()})) == (0, True)


async def test_a_value_is_only_ever_a_value(opened: OpenReader) -> None:
    acme = await fill(opened, "acme", [[an_event(resource_id="a' OR '1'='1"), an_event(resource_id="s-%")]])

    async def found(filter: Filter) -> int:
        return len(await walked(opened.reader, acme, filter=filter))

    assert await found(Filter(equal={"resource_id": ("x' OR '1'='1",)})) == 0
    assert await found(Filter(equal={"resource_id": ("a' OR '1'='1",)})) == 1
    assert await found(Filter(prefix={"resource_id": ("s-%",)})) == 1
    assert await found(Filter(prefix={"resource_id": ("%",)})) == 0
    with pytest.raises(ValueError, match="no filter on"):
        await found(Filter(equal={"1=1 OR tenant": ("x",)}))
    with pytest.raises(ValueError, match="no filter on"):
        await found(Filter(prefix={"1=1 OR tenant": ("x",)}))


# Shrinking a failure on a real database takes minutes, and the example that failed is small as it is.
@settings(
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), days=st.lists(st.lists(events(), min_size=1, max_size=6), min_size=1, max_size=7))
async def test_every_question_is_answered_as_by_looking_at_every_event(
    opened: OpenReader, data: st.DataObject, days: list[list[Event]]
) -> None:
    acme = await fill(opened, f"t{uuid.uuid4().hex}", days)
    log = [event for day in days for event in day]

    for _ in range(12):
        filter, sight = data.draw(filters()), data.draw(sights)
        direction = data.draw(st.sampled_from(Direction))
        limit, budget = data.draw(st.sampled_from([1, 3, 50])), data.draw(st.sampled_from([1, 4, 30, 1_000]))
        size = data.draw(st.just(len(log)) | st.integers(0, len(log)))
        expected = [i for i, event in enumerate(log[:size]) if is_match(event, filter, sight)]

        rows = await walked(
            opened.reader,
            acme,
            filter=filter,
            sight=sight,
            direction=direction,
            size=size,
            limit=limit,
            budget=budget,
        )
        count = await opened.reader.count(acme, filter=filter, sight=sight, size=size, budget=10_000, count_max=10_000)

        assert positions(rows) == expected[:: -1 if direction is Direction.NEWEST_FIRST else 1]
        assert count == (len(expected), True)


async def test_a_ledger_that_is_gone_is_unavailable(opened: OpenReader) -> None:
    acme = await fill(opened, "acme", [[an_event()]])
    database = await opened.filled.owner.fetchval("SELECT current_database()")
    await opened.filled.owner.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 0")
    try:
        await opened.filled.owner.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE usename = 'auditlog_query' AND datname = current_database()"
        )
        with pytest.raises(LedgerUnavailable):
            await opened.reader.head(acme)
        with pytest.raises(LedgerUnavailable):
            await opened.reader.check()
    finally:
        await opened.filled.owner.execute(f"ALTER DATABASE {database} CONNECTION LIMIT -1")
    await opened.reader.check()
    assert (await opened.reader.head(acme)).next_position == 1
