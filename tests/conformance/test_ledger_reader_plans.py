"""How PostgreSQL goes about reading: by an index in position order, on the days in question and no others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from audit_backends.ledger.filter_sql import count_sql, row_sql, walk_sql
from audit_backends.ledger.postgres_reader import BIND
from audit_backends.ledger.span_walk import NARROW, Range, SpanWalk
from audit_backends.postgres_pool import postgres_pool
from audit_contracts.principal import TenantId
from audit_contracts.query import ALL, Direction, Filter, Sight
from tests.backends import LEDGERS
from tests.events import a_batch, an_event
from tests.services import Database, FreshDatabase

FIRST_DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAYS = 8
A_DAY = 200
BUSY = TenantId("busy")
ONE_SORT_OF_SCAN = {"Index Scan", "Index Only Scan"}
CONTAINERS = {"Limit", "Append", "Merge Append", "Subquery Scan", "WindowAgg", "Aggregate", "Result"}

# By what is asked: the columns of the index behind (tenant, …).
INDEXES = {
    "nothing": (Filter(), "position_recorded_at"),
    "time": (Filter(since=FIRST_DAY - timedelta(days=999)), "position_recorded_at"),
    "severity": (Filter(equal={"severity": ("CRITICAL",)}), "position_recorded_at"),
    "prefix": (Filter(prefix={"resource_id": ("s-",)}), "position_recorded_at"),
    "user": (Filter(equal={"user_id": ("u-1",)}), "user_id_position"),
    "users": (Filter(equal={"user_id": ("u-1", "u-2", "u-3")}), "user_id_position"),
    "user_alone": (Filter(equal={"user_id": ("u-1",)}, include_access=True), "user_id_position"),
    "user_and_action": (Filter(equal={"user_id": ("u-1",), "action": ("user.login",)}), "user_id_position"),
    "resource": (Filter(equal={"resource_id": ("s-1",)}), "left_position"),
    "request": (Filter(equal={"request_id": ("r-1",), "user_id": ("u-1",)}), "request_id_position"),
    "correlation": (Filter(equal={"correlation_id": ("c-1",)}), "correlation_id_position"),
    "trace": (Filter(equal={"trace_id": ("t-1",)}), "trace_id_position"),
    "session": (Filter(equal={"session_id": ("e-1",)}), "session_id_position"),
}


@dataclass
class Ledger:
    connection: Any

    async def plan(self, step: Range, text: str, *arguments: object) -> list[dict[str, Any]]:
        """The nodes of the plan that a statement of the reader's gets for a range."""
        bounds = (step.low, step.high, step.recorded_from, step.recorded_to)
        found = await self.connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", *bounds, *arguments)
        return list(_nodes(orjson.loads(found)[0]["Plan"]))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


@pytest.fixture(scope="module", params=["days that were never analysed", "analysed days"])
async def database(request: pytest.FixtureRequest, fresh_database: FreshDatabase) -> AsyncIterator[Database]:
    async with fresh_database() as database, LEDGERS["postgres"](database) as opened:
        for tenant in (BUSY, TenantId("other")):
            _, log_id = await opened.new_tenant(tenant)
            for day in range(DAYS):
                await opened.stop_clock((FIRST_DAY + timedelta(days=day)).isoformat())
                of_day = [
                    an_event(
                        user_id=f"u-{i % 20}",
                        resource_id=f"s-{i % 50}",
                        request_id=f"r-{i}",
                        correlation_id=f"c-{i % 50}",
                        trace_id=f"t-{i % 50}",
                        session_id=f"e-{i % 50}",
                    )
                    for i in range(A_DAY)
                ]
                await opened.ledger.append([a_batch(tenant, log_id, *of_day)])
        if request.param == "analysed days":
            await opened.owner.execute("ANALYZE")
        yield database


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    async with (
        postgres_pool(database.url_for("query"), part="query", connections_max=1) as pool,
        pool.acquire() as connection,
        connection.transaction(readonly=True),
    ):
        await connection.fetch(BIND, BUSY)
        yield Ledger(connection)


def assert_by_index(nodes: list[dict[str, Any]], step: Range, columns: str) -> None:
    kinds = {node["Node Type"] for node in nodes}
    scans = [node for node in nodes if "Relation Name" in node]
    assert kinds <= ONE_SORT_OF_SCAN | CONTAINERS, kinds
    assert {node["Index Name"].split("_tenant_", 1)[1].removesuffix("_idx") for node in scans} == {columns}
    days = {step.recorded_from.date() + timedelta(days=day) for day in range(step.spans)}
    assert {node["Relation Name"] for node in scans} == {f"entries_{day:%Y%m%d}" for day in days}


@pytest.mark.parametrize("asked", INDEXES)
@pytest.mark.parametrize("direction", Direction)
async def test_a_page_reads_one_day_by_the_index_that_serves_it(
    ledger: Ledger, asked: str, direction: Direction
) -> None:
    filter, columns = INDEXES[asked]
    sql = walk_sql(filter, ALL, direction)
    walk = SpanWalk(ledger.connection, direction, filter)
    _, position = await walk.begin(None, None)
    step = await walk.range_at(position, 50)
    assert step is not None
    assert step.spans == 1

    nodes = await ledger.plan(step, sql.text, 50, 10_000, *sql.arguments)

    assert_by_index(nodes, step, columns)


@pytest.mark.parametrize("asked", INDEXES)
async def test_a_rare_value_is_looked_for_on_many_days_by_the_same_index(ledger: Ledger, asked: str) -> None:
    filter, columns = INDEXES[asked]
    sql = walk_sql(filter, ALL, Direction.NEWEST_FIRST)
    walk = SpanWalk(ledger.connection, Direction.NEWEST_FIRST, filter)
    _, position = await walk.begin(None, None)
    first = await walk.range_at(position, 1)
    assert first is not None
    await walk.plan_for(first)
    step = await walk.range_at(first.low - 1, None)
    assert step is not None
    assert step.spans == DAYS - 1 > NARROW
    await walk.plan_for(step)

    nodes = await ledger.plan(step, sql.text, 50, 10_000, *sql.arguments)

    assert_by_index(nodes, step, columns)


async def test_a_page_stops_reading_with_its_last_row(ledger: Ledger) -> None:
    filter = Filter(equal={"action": ("user.login",)}, unequal={"severity": ("ERROR",)})
    sql = walk_sql(filter, ALL, Direction.NEWEST_FIRST)
    walk = SpanWalk(ledger.connection, Direction.NEWEST_FIRST, filter)
    _, position = await walk.begin(None, None)
    step = await walk.range_at(position, 10)
    assert step is not None

    nodes = await ledger.plan(step, sql.text, 10, 10_000, *sql.arguments)

    # One more is looked at to know that the tenth was not the last.
    assert max(node["Actual Rows"] for node in nodes) <= 11


@pytest.mark.parametrize("asked", INDEXES)
async def test_a_count_reads_one_day_by_the_index_that_serves_it(ledger: Ledger, asked: str) -> None:
    filter, columns = INDEXES[asked]
    sql = count_sql(filter, ALL)
    walk = SpanWalk(ledger.connection, Direction.NEWEST_FIRST, filter)
    _, position = await walk.begin(None, None)
    step = await walk.range_at(position, 1)
    assert step is not None

    nodes = await ledger.plan(step, sql.text, 10_000, *sql.arguments)

    assert_by_index(nodes, step, columns)


async def test_an_entry_is_read_by_its_id_on_one_day(ledger: Ledger) -> None:
    sql = row_sql(Sight(own_entries_of=("u-1",)))
    entry_id = an_event().id
    walk = SpanWalk(ledger.connection, Direction.OLDEST_FIRST, Filter())
    _, position = await walk.begin_at(entry_id, FIRST_DAY + timedelta(days=2))
    step = await walk.range_at(position, 1)
    assert step is not None
    assert step.recorded_from == FIRST_DAY + timedelta(days=2)

    nodes = await ledger.plan(step, sql.text, entry_id, *sql.arguments)

    assert_by_index(nodes, step, "id")
