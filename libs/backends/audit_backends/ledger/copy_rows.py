"""
Rows of `auditlog.entries` in PostgreSQL's binary COPY format, encoded by hand.

Asyncpg's own encoder takes twice as long. All that doesn't depend on the tenant's head is encoded before the head is
locked; under the lock a row costs one hash and one pack.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from audit_contracts.event import SCHEMA_VERSION
from audit_contracts.ports.ledger import PreparedEvent
from audit_contracts.record import leaf, leaf_hash

COLUMNS: Final = (
    "position",
    "recorded_at",
    "leaf_hash",
    "id",
    "timestamp",
    "received_at",
    "schema_version",
    "core_salt",
    "root",
    "tenant",
    "action",
    "severity",
    "outcome",
    "resource_type",
    "resource_id",
    "user_id",
    "submitted_by",
    "source",
    "subject_id",
    "session_id",
    "ip_address",
    "request_id",
    "correlation_id",
    "trace_id",
    "producer_id",
    "producer_seq",
    "flags",
    "sealed",
)
HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"

_POSTGRES_EPOCH_US: Final = 946_684_800_000_000
_TIMESTAMP_US_MAX: Final = 253_402_300_799_999_999
_TEXT_OID: Final = 25
_CACHED_VALUES_MAX: Final = 8_192

_length = struct.Struct(">i").pack
_pack_head = struct.Struct(">hiqiqi32s").pack
_pack_fixed = struct.Struct(">i16siqiqihi16si32s").pack
_pack_int8 = struct.Struct(">iq").pack
_pack_array = struct.Struct(">iiIii").pack
_NULL: Final = _length(-1)


class RowEncoder:
    """Encodes rows, remembering the encoded form of values that come again and again."""

    def __init__(self) -> None:
        self._seen: dict[str | None, bytes] = {None: _NULL}

    def tail(self, tenant: str, prepared: PreparedEvent) -> bytes:
        """
        All of a row but its position, time and leaf hash.

        Raises:
            struct.error: a number is outside what its column holds.
            UnicodeError: a text is none.
        """
        event, record = prepared.event, prepared.record
        if not 0 <= event.timestamp_us <= _TIMESTAMP_US_MAX:
            raise struct.error("a timestamp outside the years 1970 to 9999")
        if len(self._seen) > _CACHED_VALUES_MAX:
            self._seen = {None: _NULL}
        often = self._often
        sealed = record.sealed
        return b"".join(
            (
                _pack_fixed(
                    16,
                    event.id.bytes,
                    8,
                    event.timestamp_us - _POSTGRES_EPOCH_US,
                    8,
                    event.received_at_us - _POSTGRES_EPOCH_US,
                    2,
                    SCHEMA_VERSION,
                    16,
                    record.core_salt,
                    32,
                    record.root,
                ),
                often(tenant),
                often(event.action),
                often(event.severity),
                often(event.outcome),
                often(event.resource_type),
                _text(event.resource_id),
                often(event.user_id),
                often(event.submitted_by),
                often(event.source),
                often(event.subject_id),
                often(event.session_id),
                often(event.ip_address),
                _text(event.request_id),
                _text(event.correlation_id),
                _text(event.trace_id),
                often(event.producer_id),
                _NULL if event.producer_seq is None else _pack_int8(8, event.producer_seq),
                _text_array(event.flags) if event.flags else _NULL,
                _length(len(sealed)),
                sealed,
            )
        )

    def _often(self, value: str | None) -> bytes:
        encoded = self._seen.get(value)
        if encoded is None:
            encoded = self._seen[value] = _text(value)
        return encoded


def head(log_id: bytes, position: int, recorded_at_us: int, prepared: PreparedEvent) -> bytes:
    """The part of a row that the tenant's head decides."""
    record = prepared.record
    hashed = leaf_hash(leaf(log_id, position, recorded_at_us, record.core_commitment, record.root))
    return _pack_head(len(COLUMNS), 8, position, 8, recorded_at_us - _POSTGRES_EPOCH_US, 32, hashed)


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    raw = value.encode()
    return _length(len(raw)) + raw


def _text_array(values: Sequence[str]) -> bytes:
    items = b"".join(_text(value) for value in values)
    return _length(20 + len(items)) + _pack_array(1, 0, _TEXT_OID, len(values), 1) + items
