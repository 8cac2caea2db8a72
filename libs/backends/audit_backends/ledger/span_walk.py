"""Which ranges of a tenant's positions a read looks at, one after the other: spans, some joined into one statement."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from audit_contracts.errors import NotFound
from audit_contracts.ports.ledger import Head
from audit_contracts.query import Direction, Filter

NARROW: Final = 4
"""Spans in a first range, at most: planned for that very range, which prunes all other days (0.2 ms a span)."""
WIDE: Final = 64
"""Spans in a later range, at most: planned once for all days (0.3 ms for each of them), then 10 µs a span."""

_FETCHED_FIRST: Final = 8
_FETCHED_MORE: Final = 128
_POSITION_MAX: Final = 2**63 - 1

_PLAN: Final = "SELECT set_config('plan_cache_mode', $1, true)"
_CUSTOM: Final = "force_custom_plan"
_GENERIC: Final = "force_generic_plan"

# Sets the way to plan for the statements behind it as well, which saves a round trip.
_HEAD: Final = f"SELECT log_id, next_position, recorded_at, set_config('plan_cache_mode', '{_CUSTOM}', true)"
_SPAN: Final = "first_position, last_position, first_recorded_at, last_recorded_at"
_IN_TIME: Final = "($3::timestamptz IS NULL OR max_timestamp >= $3) AND ($4::timestamptz IS NULL OR min_timestamp < $4)"
_SPANS: Final = {
    Direction.NEWEST_FIRST: f"SELECT {_SPAN} FROM auditlog_query.spans "
    f"WHERE first_position <= $1 AND {_IN_TIME} ORDER BY first_position DESC LIMIT $2",
    Direction.OLDEST_FIRST: f"SELECT {_SPAN} FROM auditlog_query.spans WHERE last_position >= $1 "
    "AND first_position >= coalesce((SELECT first_position FROM auditlog_query.spans "
    "WHERE first_position <= $1 ORDER BY first_position DESC LIMIT 1), 0) "
    f"AND {_IN_TIME} ORDER BY first_position LIMIT $2",
}
# Where an id can be: at the position that is known for it, else, if it tells its time, in the days since then.
_PLACES: Final = f"""
    (SELECT {_SPAN} FROM auditlog_query.spans
     WHERE first_position <= (SELECT position FROM auditlog_query.event_ids WHERE id = $1)
     ORDER BY first_position DESC LIMIT 1)
    UNION ALL
    (SELECT {_SPAN} FROM auditlog_query.spans
     WHERE NOT EXISTS (SELECT FROM auditlog_query.event_ids WHERE id = $1)
     AND day >= ($3::timestamptz AT TIME ZONE 'UTC')::date AND last_recorded_at >= $3 ORDER BY day LIMIT $2)
"""
_HEAD_AND: Final = f"{_HEAD}, s.* FROM auditlog_query.heads LEFT JOIN LATERAL ({{}}) AS s ON true"
_HEAD_AND_SPANS: Final = {direction: _HEAD_AND.format(spans) for direction, spans in _SPANS.items()}
_HEAD_AND_PLACES: Final = _HEAD_AND.format(_PLACES)
_HEAD_ALONE: Final = f"{_HEAD} FROM auditlog_query.heads"


class _Span(msgspec.Struct, frozen=True):
    """A contiguous range of positions in one partition, ends inclusive."""

    first_position: int
    last_position: int
    first_recorded_at: datetime
    last_recorded_at: datetime


class Range(msgspec.Struct, frozen=True):
    """What one statement reads: contiguous positions, ends inclusive, in `spans` partitions."""

    low: int
    high: int
    recorded_from: datetime
    recorded_to: datetime
    spans: int

    @property
    def positions(self) -> int:
        """How many there are."""
        return self.high - self.low + 1


class SpanWalk:
    """
    The way through a tenant's spans in one direction, within one transaction bound to the tenant.

    Spans whose timestamps can't meet the filter's are passed over.
    """

    def __init__(self, connection: Any, direction: Direction, filter: Filter) -> None:
        self._connection: asyncpg.Connection[Any] = connection
        self._newest_first = direction is Direction.NEWEST_FIRST
        self._spans_sql = _SPANS[direction]
        self._head_and_spans_sql = _HEAD_AND_SPANS[direction]
        self._times = (filter.since, filter.until)
        self._size = 0
        self._ahead: deque[_Span] = deque()
        self._has_more = True
        self._begun = False
        self._generic = False

    async def begin(self, start: int | None, size: int | None) -> tuple[Head, int]:
        """
        The head, and the position at which to begin: `start`, but inside of `size`; None: the direction's first.

        Raises:
            NotFound: there is no such tenant.
        """
        if self._newest_first:
            bounds = [bound for bound in (start, None if size is None else size - 1) if bound is not None]
            position = min(bounds, default=_POSITION_MAX)
        else:
            position = start or 0
        rows = await self._connection.fetch(self._head_and_spans_sql, position, _FETCHED_FIRST, *self._times)
        head = self._take(rows, _FETCHED_FIRST)
        self._size = head.next_position if size is None else min(size, head.next_position)
        return head, min(position, self._size - 1) if self._newest_first else position

    async def begin_at(self, entry_id: UUID, since: datetime | None) -> tuple[Head, int]:
        """The same for the walk, oldest first, through the places where an id can be that was made after `since`."""
        rows = await self._connection.fetch(_HEAD_AND_PLACES, entry_id, _FETCHED_FIRST, since)
        head = self._take(rows, _FETCHED_FIRST)
        self._size = head.next_position
        return head, self._ahead[0].first_position if self._ahead else self._size

    async def range_at(self, position: int, enough: int | None) -> Range | None:
        """
        The next range at or behind `position`; None where nothing is left.

        Neighbouring spans are joined until they hold `enough` positions; without it as many as one statement may have.
        """
        while 0 <= position < self._size:
            while self._ahead and self._is_passed(self._ahead[0], position):
                self._ahead.popleft()
            if self._ahead:
                beyond = not self._newest_first and self._ahead[0].first_position >= self._size
                return None if beyond else self._joined(position, enough)
            if not self._has_more:
                return None
            rows = await self._connection.fetch(self._spans_sql, position, _FETCHED_MORE, *self._times)
            self._ahead.extend(_Span(*row) for row in rows)
            self._has_more = len(rows) == _FETCHED_MORE
        return None

    def begins_at(self, step: Range) -> int:
        """The position of a range that the walk comes to first."""
        return step.high if self._newest_first else step.low

    def behind(self, position: int) -> int:
        """The position after `position` in the walk's direction."""
        return position - 1 if self._newest_first else position + 1

    def first(self, step: Range, positions: int) -> Range:
        """The part of a range that the walk comes to first, `positions` long at most."""
        if self._newest_first:
            return msgspec.structs.replace(step, low=max(step.low, step.high - positions + 1))
        return msgspec.structs.replace(step, high=min(step.high, step.low + positions - 1))

    async def plan_for(self, step: Range) -> None:
        """Have the next statement planned as is best for the range."""
        self._begun = True
        if step.spans > NARROW and not self._generic:
            self._generic = True
            await self._connection.fetch(_PLAN, _GENERIC)

    def _take(self, rows: list[Any], fetched_max: int) -> Head:
        head = head_of(rows)
        self._ahead.extend(_Span(*row[4:]) for row in rows if row[4] is not None)
        self._has_more = len(self._ahead) == fetched_max
        return head

    def _is_passed(self, span: _Span, position: int) -> bool:
        if self._newest_first:
            return span.first_position > position
        return span.last_position < position

    def _joined(self, position: int, enough: int | None) -> Range:
        low, high = (0, position) if self._newest_first else (position, self._size - 1)
        last = first = self._ahead[0]
        spans = 1
        for span in self._ahead:
            if span is first:
                continue
            newest, oldest = (first, last) if self._newest_first else (last, first)
            holds = min(high, newest.last_position) - max(low, oldest.first_position) + 1
            if spans == (WIDE if self._begun else NARROW) or (enough is not None and holds >= enough):
                break
            if last.first_position != span.last_position + 1 and span.first_position != last.last_position + 1:
                break
            last = span
            spans += 1
        newest, oldest = (first, last) if self._newest_first else (last, first)
        return Range(
            low=max(low, oldest.first_position),
            high=min(high, newest.last_position),
            recorded_from=oldest.first_recorded_at,
            recorded_to=newest.last_recorded_at,
            spans=spans,
        )


async def read_head(connection: Any) -> Head:
    """
    The head of the tenant that the transaction is bound to.

    Raises:
        NotFound: there is no such tenant.
    """
    return head_of(await connection.fetch(_HEAD_ALONE))


def head_of(rows: list[Any]) -> Head:
    """The head at the begin of each row."""
    if not rows:
        raise NotFound("there is no such tenant")
    return Head(*rows[0][:3])
