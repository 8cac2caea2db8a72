"""
The event batch, version 1: events of one tenant, sealed, as they lie in queues.

    message = u8 version | key_id[16] | batch_id[16] | u64be made_at_us | u32be count | nonce[12] | box
    box     = AES-256-GCM(zstd(msgpack([event, …]))),  AAD = "auditlog/batch/1\\n" | tenant | "\\n" | version … count

The key is the tenant's transport key, so that a queue holds no plaintext.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit_contracts.errors import SealBroken
from audit_contracts.event import Event
from audit_contracts.principal import TenantId

BATCH_VERSION: Final = 1
BATCH_EVENTS_MAX: Final = 10_000
BATCH_PLAIN_BYTES_MAX: Final = 64 * 1024 * 1024
"""What a batch may expand to when it is opened."""

_TAG: Final = b"auditlog/batch/1\n"
_HEAD: Final = struct.Struct(">B16s16sQI")
_NONCE_BYTES: Final = 12


class TransportKey:
    """A tenant's transport key ready for use. Its repr shows the id alone."""

    __slots__ = ("cipher", "key_id")

    def __init__(self, key_id: UUID, key: bytes) -> None:
        self.key_id = key_id
        self.cipher = AESGCM(key)

    def __repr__(self) -> str:
        return f"TransportKey({self.key_id})"


class BatchHead(msgspec.Struct, frozen=True):
    """What a message says in clear, bound into its seal."""

    key_id: UUID
    batch_id: UUID
    made_at_us: int
    count: int


class BatchCodec:
    """Packs and opens batches. Holds zstd contexts, so one belongs to one thread."""

    def __init__(self) -> None:
        self._compress = zstandard.ZstdCompressor(level=1, write_checksum=False).compress
        self._decompress = zstandard.ZstdDecompressor().decompress
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[Event]).decode

    def encode(self, events: Sequence[Event]) -> bytes:
        """`events` as the compressed plaintext of a batch; its length is what packing counts."""
        return self._compress(self._encode(events))

    def seal(
        self, tenant: TenantId, batch_id: UUID, made_at_us: int, events: Sequence[Event], key: TransportKey
    ) -> bytes:
        """One message of 1 to 10,000 events."""
        head = _HEAD.pack(BATCH_VERSION, key.key_id.bytes, batch_id.bytes, made_at_us, len(events))
        nonce = os.urandom(_NONCE_BYTES)
        return head + nonce + key.cipher.encrypt(nonce, self.encode(events), _aad(tenant, head))

    def open(self, tenant: TenantId, message: bytes, key: TransportKey) -> list[Event]:
        """
        The events of a message.

        Raises:
            SealBroken: altered, cut, another tenant's, or sealed under another key.
        """
        head = message[: _HEAD.size]
        nonce = message[_HEAD.size : _HEAD.size + _NONCE_BYTES]
        try:
            packed = key.cipher.decrypt(nonce, message[_HEAD.size + _NONCE_BYTES :], _aad(tenant, head))
            events = self._decode(self._decompress(packed, max_output_size=BATCH_PLAIN_BYTES_MAX))
        except (InvalidTag, ValueError, zstandard.ZstdError, msgspec.DecodeError) as exc:
            raise SealBroken("a batch does not open under its tenant's transport key") from exc
        if not events or len(events) != read_head(message).count:
            raise SealBroken("a batch does not hold the events that it counts")
        return events


def read_head(message: bytes) -> BatchHead:
    """
    The head of a message; trustworthy only once the message has been opened.

    Raises:
        SealBroken: it is no message of a version known here.
    """
    if len(message) < _HEAD.size + _NONCE_BYTES or message[0] != BATCH_VERSION:
        raise SealBroken("not an event batch of version 1")
    _, key_id, batch_id, made_at_us, count = _HEAD.unpack_from(message)
    return BatchHead(UUID(bytes=key_id), UUID(bytes=batch_id), made_at_us, count)


def _aad(tenant: TenantId, head: bytes) -> bytes:
    return _TAG + tenant.encode() + b"\n" + head
