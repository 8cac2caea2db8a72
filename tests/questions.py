"""Random events and questions, and the answer by looking at every event: what readers are held against."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from audit_contracts.event import ACCESS_SOURCE, Event
from audit_contracts.principal import DataScope
from audit_contracts.query import EXACT_FIELDS, PREFIX_FIELDS, Filter, Sight
from audit_contracts.times import from_us, to_us
from tests.events import NOW_US, an_event

HOUR_US = 3_600_000_000

VALUES: dict[str, tuple[str, ...]] = {
    "user_id": ("ada", "bob", "eve"),
    "action": ("user.login", "user.logout", "GetObject"),
    "resource_type": ("session", "file"),
    # Alike in what the index holds of them.
    "resource_id": ("s-1", "s-2*", "x" * 300, "x" * 299 + "y"),
    "severity": ("INFO", "ERROR"),
    "outcome": ("success", "failure"),
    "session_id": ("sess-1", "sess-2"),
    "ip_address": ("192.0.2.1", "2001:db8::1"),
    "request_id": ("r-1", "r-2", "r-3"),
    "correlation_id": ("c-1", "c-2"),
    "trace_id": ("t-1", "t-2"),
    "source": ("billing", ACCESS_SOURCE),
    "submitted_by": ("iss|p1", "iss|p2"),
    "flag": ("late", "clock_skew", "conflict_of"),
}
"""Few values each, so that random questions find something."""

_OPTIONAL = ("session_id", "ip_address", "request_id", "correlation_id", "trace_id", "source")
_CONFLICT = "conflict_of:00000000-0000-0000-0000-000000000001"
_FLAGS: tuple[list[str], ...] = ([], [], ["late"], ["clock_skew"], ["late", _CONFLICT])

times_us = st.integers(-5, 5).map(lambda hours: NOW_US + hours * HOUR_US)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """An event of few values."""
    fields: dict[str, Any] = {
        field: draw(st.sampled_from(values) if field not in _OPTIONAL else st.none() | st.sampled_from(values))
        for field, values in VALUES.items()
        if field != "flag"
    }
    return an_event(**fields, flags=draw(st.sampled_from(_FLAGS)), timestamp_us=draw(times_us))


def _choices(fields: Iterable[str]) -> st.SearchStrategy[dict[str, tuple[str, ...]]]:
    some = {field: st.lists(st.sampled_from(VALUES[field]), min_size=1, max_size=3, unique=True) for field in fields}
    one_or_two = st.lists(st.sampled_from(sorted(some)), max_size=2, unique=True)
    return one_or_two.flatmap(lambda names: st.fixed_dictionaries({name: some[name].map(tuple) for name in names}))


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    """A filter that few or no conditions make narrow."""
    return Filter(
        since=draw(st.none() | times_us.map(from_us)),
        until=draw(st.none() | times_us.map(from_us)),
        equal=draw(_choices(EXACT_FIELDS)),
        unequal=draw(st.just({}) | _choices(EXACT_FIELDS)),
        prefix={
            field: tuple(value[:5] for value in values)
            for field, values in draw(st.just({}) | _choices(PREFIX_FIELDS)).items()
        },
        include_access=draw(st.booleans()),
    )


def _some(field: str) -> st.SearchStrategy[frozenset[str] | None]:
    return st.none() | st.frozensets(st.sampled_from(VALUES[field]), max_size=2)


sights = st.builds(
    Sight,
    scope=st.builds(
        DataScope, resource_types=_some("resource_type"), severities=_some("severity"), sources=_some("source")
    ),
    own_entries_of=st.none() | st.just(("ada",)) | st.just(("ada", "bob")),
)


def _value(event: Event, field: str) -> list[str]:
    if field == "flag":
        return [*event.flags, *(flag.partition(":")[0] for flag in event.flags)]
    value = getattr(event, field)
    return [] if value is None else [value]


def is_match(event: Event, filter: Filter, sight: Sight) -> bool:
    """Whether a reader of this sight finds the event by this filter."""
    scope = sight.scope
    seen = {
        "resource_type": scope.resource_types,
        "severity": scope.severities,
        "source": scope.sources,
        "user_id": sight.own_entries_of,
    }
    return (
        (filter.since is None or event.timestamp_us >= to_us(filter.since))
        and (filter.until is None or event.timestamp_us < to_us(filter.until))
        and all(set(values) & set(_value(event, field)) for field, values in filter.equal.items())
        and not any(set(values) & set(_value(event, field)) for field, values in filter.unequal.items())
        and all(_value(event, field)[0].startswith(values) for field, values in filter.prefix.items())
        and (filter.include_access or event.source != ACCESS_SOURCE)
        and all(values is None or set(values) & set(_value(event, field)) for field, values in seen.items())
    )
