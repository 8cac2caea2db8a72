"""The ledger's read side on PostgreSQL: views that show one tenant, walked span by span."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

from audit_backends.ledger.filter_sql import count_sql, row_sql, walk_sql
from audit_backends.ledger.span_walk import Range, SpanWalk, read_head
from audit_contracts.errors import LedgerUnavailable
from audit_contracts.ids import uuid7_us
from audit_contracts.ports.ledger import Head, LedgerRow, Slice, WrappedOwnerKey
from audit_contracts.principal import TenantId
from audit_contracts.query import Direction, Filter, Sight
from audit_contracts.times import EPOCH

RECEIVED_AHEAD_MAX: Final = timedelta(minutes=5)
"""How far the clock that made an id may have been ahead of the ledger's."""

_FAILURES: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError)
_ACQUIRE_TIMEOUT_S: Final = 5.0
# What going to another partition costs, in entries looked at.
_SPAN_COST: Final = 20
_ROW_COLUMNS: Final = len(LedgerRow.__struct_fields__)
_LOOKED_AT: Final = _ROW_COLUMNS
_MATCHES: Final = _ROW_COLUMNS + 1
_ANYTHING: Final = Filter(include_access=True)

# Sorting, bitmaps and reading whole partitions are for estimates that hold; on a day that has just begun none does.
BIND: Final = (
    "SELECT set_config('auditlog.tenant', $1, true), set_config('enable_seqscan', 'off', true), "
    "set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true)"
)


class PostgresLedgerReader:
    """The port `LedgerReader` over the pool of login `auditlog_query`, which sees nothing but views of one tenant."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def head(self, tenant: TenantId) -> Head:
        async with self._bound(tenant) as connection:
            return await read_head(connection)

    async def walk(
        self,
        tenant: TenantId,
        *,
        filter: Filter,
        sight: Sight,
        direction: Direction,
        start: int | None,
        size: int | None,
        limit: int,
        budget: int,
    ) -> tuple[Head, Slice]:
        sql = walk_sql(filter, sight, direction)
        rows: list[LedgerRow] = []
        left = budget
        async with self._bound(tenant) as connection:
            walk = SpanWalk(connection, direction, filter)
            head, position = await walk.begin(start, size)
            step = None if sql.nothing else await walk.range_at(position, limit)
            while step is not None and left > 0 and len(rows) < limit:
                if not sql.by_index:
                    # Every position counts, so that the range itself keeps to the budget.
                    step = walk.first(step, left)
                await walk.plan_for(step)
                wanted = limit - len(rows)
                found = await connection.fetch(sql.text, *_bounds(step), wanted, left, *sql.arguments)
                cut = len(found) == min(wanted, left) or (sql.marked and found and found[-1][_LOOKED_AT] == left)
                last = found[-1]["position"] if cut else step.high + step.low - walk.begins_at(step)
                rows.extend(LedgerRow(*row[:_ROW_COLUMNS]) for row in found if not sql.marked or row[_MATCHES])
                if not sql.by_index:
                    left -= abs(last - walk.begins_at(step)) + 1
                elif found:
                    left -= found[-1][_LOOKED_AT] if sql.marked else len(found)
                left -= _SPAN_COST * step.spans
                step = await walk.range_at(walk.behind(last), None if sql.by_index else left)
            return head, Slice(rows, None if step is None else walk.begins_at(step), budget - left)

    async def count(
        self, tenant: TenantId, *, filter: Filter, sight: Sight, size: int, budget: int, count_max: int
    ) -> tuple[int, bool]:
        sql = count_sql(filter, sight)
        matches = 0
        left = budget
        async with self._bound(tenant) as connection:
            walk = SpanWalk(connection, Direction.NEWEST_FIRST, filter)
            _, position = await walk.begin(None, size)
            step = None if sql.nothing else await walk.range_at(position, left)
            while step is not None:
                if left <= 0:
                    return matches, False
                if not sql.by_index:
                    step = walk.first(step, left)
                await walk.plan_for(step)
                found, looked_at = await connection.fetchrow(sql.text, *_bounds(step), left, *sql.arguments)
                matches += found
                if matches > count_max:
                    return count_max, False
                if sql.by_index and looked_at == left:
                    return matches, False
                left -= looked_at + _SPAN_COST * step.spans
                step = await walk.range_at(walk.behind(step.low), None if sql.by_index else left)
        return matches, True

    async def row(self, tenant: TenantId, entry_id: UUID, *, sight: Sight) -> tuple[Head, LedgerRow | None]:
        sql = row_sql(sight)
        us = uuid7_us(entry_id)
        since = None if us is None else EPOCH + timedelta(microseconds=us) - RECEIVED_AHEAD_MAX
        async with self._bound(tenant) as connection:
            walk = SpanWalk(connection, Direction.OLDEST_FIRST, _ANYTHING)
            head, position = await walk.begin_at(entry_id, since)
            step = None if sql.nothing else await walk.range_at(position, 1)
            while step is not None:
                await walk.plan_for(step)
                row = await connection.fetchrow(sql.text, *_bounds(step), entry_id, *sql.arguments)
                if row is not None:
                    return head, LedgerRow(*row)
                step = await walk.range_at(walk.behind(step.high), None)
        return head, None

    async def owner_keys(self, tenant: TenantId, key_ids: Sequence[UUID]) -> Mapping[UUID, WrappedOwnerKey]:
        async with self._bound(tenant) as connection:
            rows = await connection.fetch(
                "SELECT key_id, tag, tenant_key_id, wrapped FROM auditlog_query.owner_keys "
                "WHERE key_id = ANY ($1::uuid[])",
                key_ids,
            )
        return {row["key_id"]: WrappedOwnerKey(*row) for row in rows}

    async def check(self) -> None:
        try:
            await self._pool.fetchval("SELECT true")
        except _FAILURES as exc:
            raise LedgerUnavailable("the ledger can't be read now") from exc

    async def close(self) -> None:
        """Nothing to let go of: the pool belongs to who opened it."""

    @asynccontextmanager
    async def _bound(self, tenant: TenantId) -> AsyncIterator[Any]:
        """A read-only transaction that sees this tenant; the binding ends with it."""
        try:
            async with (
                self._pool.acquire(timeout=_ACQUIRE_TIMEOUT_S) as connection,
                connection.transaction(readonly=True),
            ):
                await connection.fetch(BIND, tenant)
                yield connection
        except _FAILURES as exc:
            raise LedgerUnavailable("the ledger can't be read now") from exc


def _bounds(step: Range) -> tuple[object, ...]:
    return step.low, step.high, step.recorded_from, step.recorded_to
