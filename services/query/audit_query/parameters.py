"""What a reader asks for: the query string of GET /logs, whole or refused with the name of what is wrong."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from audit_contracts.errors import InvalidParameter, TenantMismatch
from audit_contracts.event import Outcome, Severity
from audit_contracts.principal import TenantId
from audit_contracts.query import (
    EXACT_FIELDS,
    FILTER_VALUE_CHARS_MAX,
    FILTER_VALUES_MAX,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    PREFIX_FIELDS,
    Direction,
    Filter,
)

WAIT_MS_MAX: Final = 10_000
NEXT_TOKEN_CHARS_MAX: Final = 128

_PARAMETERS_MAX: Final = FILTER_VALUES_MAX + 20
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NAME_CHARS_SHOWN: Final = 64
_DIGITS: Final = re.compile(r"[0-9]{1,6}")
_SINGLE: Final = ("from", "to", "sort", "limit", "next_token", "include_access", "total", "tenant_id")
_FILTERS: Final[Mapping[str, tuple[str, str]]] = {
    **{field: ("equal", field) for field in EXACT_FIELDS},
    **{f"{field}.not": ("unequal", field) for field in EXACT_FIELDS},
    **{f"{field}.prefix": ("prefix", field) for field in PREFIX_FIELDS},
}
"""Each filter's name: the part of `Filter` that it goes to, and its field."""

_Moment = Annotated[datetime, Meta(tz=True)]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list, as asked for."""

    filter: Filter
    direction: Direction
    limit: int
    next_token: str | None
    total: bool

    def recorded(self) -> dict[str, Any]:
        """What of it is kept in the record of the read; all pages of a list have the same."""
        asked = msgspec.to_builtins(self.filter)
        return {name: value for name, value in asked.items() if value} | {"sort": self.direction.value}


def question(query_string: bytes, tenant: TenantId) -> Question:
    """
    The question that the query string of a list asks.

    Raises:
        InvalidParameter: a parameter is unknown, stands twice where it may stand once, or has a value out of bounds.
        TenantMismatch: `tenant_id` is not the reader's own.
    """
    single, filters = _sorted_out(_pairs(query_string))
    if single.get("tenant_id", tenant) != tenant:
        raise TenantMismatch("tenant_id names another tenant than the token")
    since, until = _moment("from", single), _moment("to", single)
    if since is not None and until is not None and until <= since:
        raise InvalidParameter("to", "to is exclusive and has to be later than from")
    return Question(
        filter=Filter(
            since=since,
            until=until,
            include_access=_flag("include_access", single),
            equal=filters.get("equal", {}),
            unequal=filters.get("unequal", {}),
            prefix=filters.get("prefix", {}),
        ),
        direction=_direction(single),
        limit=_number("limit", single, 1, LIMIT_MAX, LIMIT_DEFAULT),
        next_token=_next_token(single),
        total=_flag("total", single),
    )


def wait_ms(query_string: bytes) -> int | None:
    """
    How long GET /logs/{id} is to wait for an entry, None where it doesn't say.

    Raises:
        InvalidParameter: as above.
    """
    single: dict[str, str] = {}
    for name, value in _pairs(query_string):
        if name != "wait_ms":
            raise _unknown(name, ["wait_ms"])
        _once(single, name, value)
    return _number("wait_ms", single, 0, WAIT_MS_MAX, 0) if single else None


def _pairs(query_string: bytes) -> Sequence[tuple[str, str]]:
    try:
        return parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_PARAMETERS_MAX
        )
    except UnicodeError:
        raise InvalidParameter("query", "the query string is not percent-encoded UTF-8") from None
    except ValueError:
        raise InvalidParameter("query", f"there are more than {_PARAMETERS_MAX} parameters") from None


def _sorted_out(
    pairs: Iterable[tuple[str, str]],
) -> tuple[Mapping[str, str], Mapping[str, Mapping[str, tuple[str, ...]]]]:
    """Parameters that stand once, and filters: by part of `Filter` and field, each value once and in order."""
    single: dict[str, str] = {}
    found: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    count = 0
    for name, value in pairs:
        if name in _FILTERS:
            part, field = _FILTERS[name]
            found[part][field].add(_value(name, field, value))
            count += 1
        elif name in _SINGLE:
            _once(single, name, value)
        else:
            raise _unknown(name, [*_SINGLE, *_FILTERS])
    if count > FILTER_VALUES_MAX:
        raise InvalidParameter("query", f"there are more than {FILTER_VALUES_MAX} values in all filters together")
    filters = {
        part: {field: tuple(sorted(of)) for field, of in sorted(fields.items())} for part, fields in found.items()
    }
    return single, filters


def _value(name: str, field: str, value: str) -> str:
    if not value or len(value) > FILTER_VALUE_CHARS_MAX or _CONTROL.search(value):
        raise InvalidParameter(name, f"{name} takes 1 to {FILTER_VALUE_CHARS_MAX} characters, none of them a control")
    reading = _READINGS.get(field)
    if reading is None:
        return value
    try:
        return reading[0](value)
    except ValueError:
        raise InvalidParameter(name, f"{name} takes {reading[1]}") from None


_READINGS: Final[Mapping[str, tuple[Callable[[str], str], str]]] = {
    "severity": (lambda value: Severity(value).value, "one of " + ", ".join(Severity)),
    "outcome": (lambda value: Outcome(value).value, "one of " + ", ".join(Outcome)),
    "ip_address": (lambda value: str(ip_address(value)), "an IPv4 or IPv6 address"),
}
"""Fields whose values are few or have a normal form, and how a refusal names what they take."""


def _once(single: dict[str, str], name: str, value: str) -> None:
    if name in single:
        raise InvalidParameter(name, f"{name} stands twice")
    single[name] = value


def _unknown(name: str, known: Iterable[str]) -> InvalidParameter:
    shown = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", name[:_NAME_CHARS_SHOWN])
    meant = get_close_matches(shown, list(known), n=1)
    return InvalidParameter(
        shown, "there is no parameter of this name" + "".join(f"; is {name} meant?" for name in meant)
    )


def _moment(name: str, single: Mapping[str, str]) -> datetime | None:
    text = single.get(name)
    if text is None:
        return None
    try:
        moment: datetime = msgspec.convert(text, _Moment)
        return moment.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise InvalidParameter(
            name, f"{name} takes an RFC 3339 time with its zone, like 2026-01-31T12:00:00Z; a + is written %2B"
        ) from None


def _flag(name: str, single: Mapping[str, str]) -> bool:
    text = single.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidParameter(name, f"{name} takes true or false")
    return text == "true"


def _number(name: str, single: Mapping[str, str], least: int, most: int, default: int) -> int:
    text = single.get(name)
    if text is None:
        return default
    if _DIGITS.fullmatch(text) is None or not least <= int(text) <= most:
        raise InvalidParameter(name, f"{name} takes a whole number from {least} to {most}")
    return int(text)


def _direction(single: Mapping[str, str]) -> Direction:
    try:
        return Direction(single.get("sort", Direction.NEWEST_FIRST))
    except ValueError:
        raise InvalidParameter("sort", "sort takes -position (newest first) or position") from None


def _next_token(single: Mapping[str, str]) -> str | None:
    token = single.get("next_token")
    if token is not None and not 0 < len(token) <= NEXT_TOKEN_CHARS_MAX:
        raise InvalidParameter("next_token", "next_token is what an earlier page answered, unchanged")
    return token
