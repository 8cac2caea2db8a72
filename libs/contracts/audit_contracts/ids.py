"""Ids made by the house: UUIDv7 of a time, and UUIDv5-like names over length-prefixed parts."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from typing import Final
from uuid import UUID

NAMESPACE_REPLAY: Final = UUID("6f1f7a3e-6a53-5c0e-9a4b-0d5f1f3f9b11")
NAMESPACE_KEYED: Final = UUID("b0c6a2fb-54b7-5f7a-8c1e-3d7c0e0d5a52")

_RAND_B: Final = 0x3FFF_FFFF_FFFF_FFFF


def uuid7(us: int) -> UUID:
    """A UUIDv7 (RFC 9562) of the millisecond of `us`, its sub-milliseconds in rand_a so that ids of a burst sort."""
    return UUID(int=_uuid7_head(us) | int.from_bytes(os.urandom(8)) & _RAND_B)


def uuid7s(us: int) -> Iterator[UUID]:
    """Any number of them, all of one time. Asks the system for randomness once, and then once for each 64."""
    head, at_once = _uuid7_head(us), 1
    while True:
        for word in struct.unpack(f">{at_once}Q", os.urandom(8 * at_once)):
            yield UUID(int=head | word & _RAND_B)
        at_once = 64


def _uuid7_head(us: int) -> int:
    ms, sub_us = divmod(us, 1_000)
    return (ms & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (sub_us * 4096 // 1_000) << 64 | 0b10 << 62


def uuid7_us(identifier: UUID) -> int | None:
    """The microsecond (to the millisecond) that a UUIDv7 was made of, or None for another version."""
    return (identifier.int >> 80) * 1_000 if identifier.version == 7 else None


def named(namespace: UUID | bytes, *parts: bytes | str) -> UUID:
    """
    A UUIDv5 over `parts`, each prefixed by its length so that no two lists of parts run together.

    `namespace` is a UUID, or a tenant's 16-byte `log_id`.
    """
    digest = hashlib.sha1(namespace.bytes if isinstance(namespace, UUID) else namespace, usedforsecurity=False)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(4) + raw)
    return UUID(bytes=digest.digest()[:16], version=5)


def conflict_id(log_id: bytes, identifier: UUID, fingerprint: bytes) -> UUID:
    """The id under which an event is recorded whose own id the tenant's ledger holds with another fingerprint."""
    return named(log_id, identifier.bytes, fingerprint)


def replay_id(batch_id: UUID, ordinal: int) -> UUID:
    """The batch id of a dead letter sent again: always the same, so that replaying twice adds nothing."""
    return named(NAMESPACE_REPLAY, batch_id.bytes, ordinal.to_bytes(4))
