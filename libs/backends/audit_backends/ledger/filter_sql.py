"""
SQL from a question: conditions on rows, and the one condition that an index serves in position order.

Values never stand in the SQL, only `$n`; the text depends on the question's shape alone, so that statements stay
prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

import msgspec

from audit_contracts.event import ACCESS_SOURCE
from audit_contracts.ports.ledger import LedgerRow
from audit_contracts.query import EXACT_FIELDS, PREFIX_FIELDS, Direction, Filter, Sight

COLUMNS: Final = ", ".join('"timestamp"' if name == "timestamp" else name for name in LedgerRow.__struct_fields__)

BRANCHES_MAX: Final = 8
"""A condition of more values than this is tested row by row: each value is a scan of its own in every partition."""

# By how few entries one value picks out. Each has an index (tenant, expression, position).
_BY_CHOICE: Final = (
    "request_id",
    "correlation_id",
    "trace_id",
    "session_id",
    "resource_id",
    "user_id",
    "action",
)
_RESOURCE_INDEX: Final = "left(resource_id, 256) = left(${0}, 256) AND resource_id = ${0}"

_RANGE: Final = "position BETWEEN $1 AND $2 AND recorded_at BETWEEN $3 AND $4"
_RANGE_PARAMETERS: Final = 4


class Conditions(msgspec.Struct, frozen=True):
    """
    What a row must be. `access` is served by an index, one scan for each of its alternatives; `rest` is tested on rows.

    Placeholders are numbered behind `offset` parameters that the statement has of its own; `arguments` fill them.
    `nothing` is set where no row can be it.
    """

    access: tuple[str, ...]
    rest: str
    arguments: tuple[Any, ...]
    nothing: bool


def conditions(filter: Filter, sight: Sight, *, offset: int, by_index: bool = True) -> Conditions:
    """The conditions of a question; without `by_index` all of them are tested on rows."""
    equal = {field: frozenset(values) for field, values in filter.equal.items()}
    for field, values in _seen(sight):
        equal[field] = equal[field] & values if field in equal else values
    arguments: list[Any] = []

    def bound(value: Any) -> int:
        arguments.append(value)
        return offset + len(arguments)

    chosen = _chosen(equal) if by_index else None
    access: tuple[str, ...] = ()
    if chosen is not None:
        form = _RESOURCE_INDEX if chosen == "resource_id" else f"{chosen} = ${{0}}"
        access = tuple(form.format(bound(value)) for value in sorted(equal.pop(chosen)))
    rest = [*_on_rows(filter, equal, bound)]
    nothing = not all(equal.values()) or (chosen is not None and not access)
    return Conditions(access, " AND ".join(rest), tuple(arguments), nothing)


class WalkSql(msgspec.Struct, frozen=True):
    """
    One step of a walk: its text, and the values behind the four bounds of its range and `limit`, `budget`.

    Of an index that answers the whole question, and of plain positions, each row is a match. Else (`marked`) rows
    carry two columns more: their number among those looked at, and whether they match; the last one looked at comes
    along in any case, so that its number is known.
    """

    text: str
    arguments: tuple[Any, ...]
    marked: bool
    by_index: bool
    nothing: bool


LIMIT_AND_BUDGET: Final = _RANGE_PARAMETERS + 2


def walk_sql(filter: Filter, sight: Sight, direction: Direction) -> WalkSql:
    """The statement that walks one contiguous range: `$1`…`$4` its bounds, `$5` rows at most, `$6` rows looked at."""
    found = conditions(filter, sight, offset=LIMIT_AND_BUDGET)
    order = "DESC" if direction is Direction.NEWEST_FIRST else "ASC"
    marked = bool(found.access and found.rest)
    if marked:
        # The window's order is the index's, so that nothing is sorted and reading ends with the last row asked for.
        text = (
            f"SELECT {COLUMNS}, looked_at, matches FROM ("
            f"SELECT {COLUMNS}, row_number() OVER walk AS looked_at, lead(true) OVER walk IS NULL AS is_last, "
            f"({found.rest}) IS TRUE AS matches "
            f"FROM ({_source(found, order)} ORDER BY position {order} LIMIT $6) AS looked "
            f"WINDOW walk AS (ORDER BY position {order})) AS numbered "
            f"WHERE matches OR is_last ORDER BY position {order} LIMIT $5"
        )
    else:
        rest = f" WHERE {found.rest}" if found.rest else ""
        text = (
            f"SELECT {COLUMNS} FROM ({_source(found, order)}) AS looked{rest} "
            f"ORDER BY position {order} LIMIT least($5::bigint, $6::bigint)"
        )
    return WalkSql(text, found.arguments, marked, bool(found.access), found.nothing)


def count_sql(filter: Filter, sight: Sight) -> WalkSql:
    """
    The statement that counts in one contiguous range: `$1`…`$4` its bounds, `$5` rows looked at, at most.

    Answers how many match and how many were looked at.
    """
    found = conditions(filter, sight, offset=_RANGE_PARAMETERS + 1)
    matches = f"count(*) FILTER (WHERE {found.rest})" if found.rest else "count(*)"
    # The order keeps the scan on an index that holds this tenant alone.
    text = f"SELECT {matches}, count(*) FROM ({_source(found, 'DESC')} ORDER BY position DESC LIMIT $5) AS looked"
    return WalkSql(text, found.arguments, False, bool(found.access), found.nothing)


def row_sql(sight: Sight) -> WalkSql:
    """The statement that finds an id in one contiguous range: `$1`…`$4` its bounds, `$5` the id."""
    found = conditions(Filter(include_access=True), sight, offset=_RANGE_PARAMETERS + 1, by_index=False)
    # An order by id, of which an equal id would leave nothing, so that no other index is ever taken for a better one.
    by_id = f"SELECT * FROM auditlog_query.entries WHERE id >= $5 AND id <= $5 AND {_RANGE} ORDER BY id LIMIT 1"
    text = f"SELECT {COLUMNS} FROM ({by_id}) AS found" + (f" WHERE {found.rest}" if found.rest else "")
    return WalkSql(text, found.arguments, False, True, found.nothing)


def _source(found: Conditions, order: str) -> str:
    if len(found.access) < 2:
        access = "".join(f"{of} AND " for of in found.access)
        return f"SELECT * FROM auditlog_query.entries WHERE {access}{_RANGE}"
    # Each branch in order, and the union apart from order and limit: then branches are merged, and nothing is sorted.
    branches = [
        f"(SELECT * FROM auditlog_query.entries WHERE {access} AND {_RANGE} ORDER BY position {order})"
        for access in found.access
    ]
    return f"SELECT * FROM ({' UNION ALL '.join(branches)}) AS branches"


def _seen(sight: Sight) -> Iterator[tuple[str, frozenset[str]]]:
    dimensions: tuple[tuple[str, Collection[str] | None], ...] = (
        ("resource_type", sight.scope.resource_types),
        ("severity", sight.scope.severities),
        ("source", sight.scope.sources),
        ("user_id", sight.own_entries_of),
    )
    for field, values in dimensions:
        if values is not None:
            yield field, frozenset(values)


def _chosen(equal: dict[str, frozenset[str]]) -> str | None:
    return next((field for field in _BY_CHOICE if 0 < len(equal.get(field, ())) <= BRANCHES_MAX), None)


def _on_rows(filter: Filter, equal: dict[str, frozenset[str]], bound: Callable[[Any], int]) -> Iterator[str]:
    if filter.since is not None:
        yield f'"timestamp" >= ${bound(filter.since)}'
    if filter.until is not None:
        yield f'"timestamp" < ${bound(filter.until)}'
    for field, values in sorted(equal.items()):
        yield _one_of(field, bound(sorted(values)))
    for field, unwanted in sorted(filter.unequal.items()):
        yield f"({_one_of(field, bound(sorted(unwanted)))}) IS NOT TRUE"
    for field, prefixes in sorted(filter.prefix.items()):
        if field not in PREFIX_FIELDS:
            raise ValueError(f"there is no filter on the beginning of {field}")
        yield f"{field} ^@ ANY (${bound(sorted(prefixes))}::text[])"
    if not filter.include_access:
        yield f"source IS DISTINCT FROM '{ACCESS_SOURCE}'"


def _one_of(field: str, number: int) -> str:
    if field not in EXACT_FIELDS:
        raise ValueError(f"there is no filter on {field}")
    if field != "flag":
        return f"{field} = ANY (${number}::text[])"
    # `conflict_of:<id>` is found by its name as well.
    return (
        f"(flags IS NOT NULL AND EXISTS (SELECT FROM unnest(flags) AS f (flag) "
        f"WHERE f.flag = ANY (${number}::text[]) OR split_part(f.flag, ':', 1) = ANY (${number}::text[])))"
    )
