"""
The entry as a client sends it, and the event that ingest makes of it.

`EntryIn` is the hot path's model. `entry_schema.EntryModel` is its published twin in pydantic; a property test holds
the two to the same answers. `Event` is what travels, sealed, from ingest to the ledger.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

SCHEMA_VERSION: Final = 1

ACTION_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_.:-]{0,127}\Z"
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,127}\Z"
"""Names of kinds and applications: `resource_type`, `source`."""
REFERENCE_PATTERN: Final = r"^[A-Za-z0-9._:/@+=-]{1,128}\Z"
"""Ids that join entries to other systems: `request_id`, `correlation_id`, `trace_id`, `producer_id`."""
RESERVED_ACTION_PREFIX: Final = "auditlog."
ACCESS_SOURCE: Final = "auditlog"
"""The `source` of what the product records of itself; no client may send it."""

OWNER_CHARS_MAX: Final = 256
RESOURCE_ID_CHARS_MAX: Final = 1_024
USER_AGENT_CHARS_MAX: Final = 2_048
DETAILS_CHARS_MAX: Final = 65_536
PRODUCER_SEQ_MAX: Final = 2**63 - 1
METADATA_KEYS_MAX: Final = 10_000

CLOCK_SKEW_MAX: Final = timedelta(hours=24)
"""A timestamp further ahead of `received_at` than this is refused."""
CLOCK_SKEW_FLAGGED: Final = timedelta(minutes=5)
"""A timestamp further ahead of `received_at` than this is flagged `clock_skew`."""
LATE_FLAGGED: Final = timedelta(hours=24)
"""A timestamp further behind `received_at` than this is flagged `late`."""

FLAG_CLOCK_SKEW: Final = "clock_skew"
FLAG_LATE: Final = "late"
FLAG_CONFLICT_OF: Final = "conflict_of"
"""Stands in an entry's flags as `conflict_of:<id>`."""


class Severity(StrEnum):
    """How much an entry matters to who watches."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class Outcome(StrEnum):
    """What came of the action."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"


# `gc=False` below: these are trees of plain values, so no collector need ever look at the thousands that are in hand.

Owner = Annotated[str, Meta(min_length=1, max_length=OWNER_CHARS_MAX)]
Reference = Annotated[str, Meta(pattern=REFERENCE_PATTERN)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]


class EntryIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """
    One entry as sent, after the strictness check and with its aliases resolved. `None` is the same as absent.

    Bounds that a type can't say (24 h ahead, bytes of the whole, a normal IP address) are checked behind it.
    """

    user_id: Owner
    action: Annotated[str, Meta(pattern=ACTION_PATTERN)]
    resource_type: Name
    resource_id: Annotated[str, Meta(min_length=1, max_length=RESOURCE_ID_CHARS_MAX)]
    id: UUID | None = None
    tenant_id: str | None = None
    subject_id: Owner | None = None
    session_id: Owner | None = None
    timestamp: Annotated[datetime, Meta(tz=True)] | None = None
    ip_address: Annotated[str, Meta(max_length=64)] | None = None
    user_agent: Annotated[str, Meta(max_length=USER_AGENT_CHARS_MAX)] | None = None
    before: Any = None
    after: Any = None
    metadata: dict[str, Any] | None = None
    severity: Severity | None = None
    details: Annotated[str, Meta(max_length=DETAILS_CHARS_MAX)] | None = None
    outcome: Outcome | None = None
    request_id: Reference | None = None
    correlation_id: Reference | None = None
    trace_id: Reference | None = None
    source: Name | None = None
    producer_id: Reference | None = None
    producer_seq: Annotated[int, Meta(ge=0, le=PRODUCER_SEQ_MAX)] | None = None


ALIASES: Final = {
    "action_type": "action",
    "before_state": "before",
    "after_state": "after",
    "message": "details",
}
"""Other names under which a field is accepted; sending both is refused."""


class Event(msgspec.Struct, array_like=True, kw_only=True, gc=False):
    """
    An accepted entry on its way to the ledger: validated, masked, with an id. Travels as a msgpack array.

    Times are integer microseconds since 1970. `changes` and `content` are slots 3 and 4 of the record, serialised once
    and kept verbatim. `fingerprint` is set where the id was made by a client or from a key: 16 bytes over principal and
    digest of what was sent; the ledger tells a repeat (same id, same fingerprint) from a conflict by it.
    """

    id: UUID
    action: str
    severity: str
    outcome: str
    resource_type: str
    resource_id: str
    timestamp_us: int
    received_at_us: int
    user_id: str
    submitted_by: str
    source: str | None = None
    subject_id: str | None = None
    session_id: str | None = None
    ip_address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None
    correlation_id: str | None = None
    trace_id: str | None = None
    producer_id: str | None = None
    producer_seq: int | None = None
    flags: list[str] = []
    changes: bytes | None = None
    content: bytes | None = None
    fingerprint: bytes | None = None

    @property
    def owner(self) -> str:
        """Whose erasure erases this event: the subject, else the user."""
        return self.subject_id or self.user_id


class Changes(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Slot 3: the state before and after, as any JSON value."""

    before: Any = None
    after: Any = None


class Content(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Slot 4: what else the producer said, and what was masked: pairs of JSON pointer and rule, never a value."""

    metadata: Any = None
    details: str | None = None
    masked: list[tuple[str, str]] = []


class Identity(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Slot 2: who."""

    user_id: str
    submitted_by: str
    subject_id: str | None = None
    session_id: str | None = None
    ip_address: str | None = None
    user_agent: str | None = None


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """
    An entry as a client reads it. Absent fields are left out.

    `position` and `recorded_at` are missing from the answer of ingest, which the ledger has not seen yet. `before`,
    `after` and `metadata` are JSON as kept. `erased` names the parts of the record that were erased, if any:
    `resource`, `identity`, `changes`, `content`.
    """

    id: UUID
    tenant_id: str
    timestamp: datetime
    received_at: datetime
    user_id: str | None = None
    action: str
    resource_type: str
    resource_id: str | None = None
    severity: str
    outcome: str
    submitted_by: str | None = None
    position: int | None = None
    recorded_at: datetime | None = None
    subject_id: str | None = None
    session_id: str | None = None
    ip_address: str | None = None
    user_agent: str | None = None
    before: msgspec.Raw | None = None
    after: msgspec.Raw | None = None
    metadata: msgspec.Raw | None = None
    details: str | None = None
    request_id: str | None = None
    correlation_id: str | None = None
    trace_id: str | None = None
    source: str | None = None
    producer_id: str | None = None
    producer_seq: int | None = None
    flags: list[str] = []
    masked: list[tuple[str, str]] = []
    erased: list[str] = []
