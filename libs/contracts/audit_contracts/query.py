"""The question: filters over a ledger, and the direction and cursor of a walk."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from audit_contracts.principal import EVERYTHING, DataScope

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 1_000
FILTER_VALUES_MAX: Final = 100
"""Values of all filters of one request together."""
FILTER_VALUE_CHARS_MAX: Final = 1_024

EXACT_FIELDS: Final = (
    "user_id",
    "action",
    "resource_type",
    "resource_id",
    "severity",
    "outcome",
    "session_id",
    "ip_address",
    "request_id",
    "correlation_id",
    "trace_id",
    "source",
    "submitted_by",
    "flag",
)
"""Fields that take `x=` and `x.not=`; each may repeat: any of the values, none of the values."""
PREFIX_FIELDS: Final = ("action", "resource_id")
"""Fields that take `x.prefix=` besides."""
HASHABLE_FIELDS: Final = ("user_id", "submitted_by", "resource_id", "session_id", "ip_address")
"""Fields that masking may have hashed, so that a filter's value must be masked alike."""


class Direction(StrEnum):
    """The order of positions; newest first unless said otherwise."""

    NEWEST_FIRST = "-position"
    OLDEST_FIRST = "position"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """
    What an entry must be to be found. All conditions hold together.

    `since` (inclusive) and `until` (exclusive) are on the producer's `timestamp`. `equal`, `unequal` and `prefix` map a
    field to its values: one of them, none of them, beginning with one of them. An absent field is unequal to all.
    Unless `include_access` is set, what the product recorded of itself is left out.
    """

    since: datetime | None = None
    until: datetime | None = None
    equal: Mapping[str, tuple[str, ...]] = {}
    unequal: Mapping[str, tuple[str, ...]] = {}
    prefix: Mapping[str, tuple[str, ...]] = {}
    include_access: bool = False


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """
    What of a tenant's log a reader sees, whatever it asks for; the same on every read.

    `own_entries_of`, where set, leaves only entries whose `user_id` is one of these: the reader's own, as it is and as
    masking has it.
    """

    scope: DataScope = EVERYTHING
    own_entries_of: tuple[str, ...] | None = None


ALL: Final = Sight()
