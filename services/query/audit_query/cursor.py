"""
The `next_token`: where a list goes on, and how much of the log it sees.

    token = base64url(key_id[16] | u64be size | u64be position | mac[16])
    mac   = HMAC(the tenant's cursor key, "auditlog/cursor/1\\n" | token so far | SHA-256 of the question)

The question is all that decides which entries belong to the list: tenant, filter, direction and what the reader may
see. It is bound and not carried, so that a token tells nothing and is good for nothing else.
"""

from __future__ import annotations

import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec

from audit_contracts.errors import InvalidCursor, NotFound
from audit_contracts.principal import Principal, TenantId
from audit_contracts.query import Direction, Filter
from audit_kit.keyring import Keyring
from audit_kit.secret_keys import SecretKey

_DOMAIN: Final = b"auditlog/cursor/1\n"
_BODY: Final = struct.Struct(">16sQQ")
_MAC_BYTES: Final = 16
_TOKEN_CHARS: Final = (_BODY.size + _MAC_BYTES) * 4 // 3
_REFUSED: Final = "this next_token was altered, or belongs to another question; ask again without it"

_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class Cursor(msgspec.Struct, frozen=True):
    """Go on at `position` in a log of which only positions below `size` are looked at."""

    size: int
    position: int


def digest(principal: Principal, filter: Filter, direction: Direction) -> bytes:
    """What a cursor is bound to, 32 bytes."""
    bound = (principal.tenant, filter, direction, principal.data_scope, principal.own_entries_of)
    return sha256(_encode(bound)).digest()


async def token_of(cursor: Cursor, *, keyring: Keyring, tenant: TenantId, question: bytes) -> str:
    """The token that stands for `cursor` in lists whose digest is `question`."""
    key = await keyring.cursor_key(tenant)
    body = _BODY.pack(key.key_id.bytes, cursor.size, cursor.position)
    return urlsafe_b64encode(body + _mac(key, body, question)).decode()


async def cursor_of(token: str, *, keyring: Keyring, tenant: TenantId, question: bytes) -> Cursor:
    """
    What a token of any generation of the key stands for.

    Raises:
        InvalidCursor: altered, or made for another tenant, question or reader.
    """
    if len(token) != _TOKEN_CHARS:
        raise InvalidCursor(_REFUSED)
    try:
        raw = urlsafe_b64decode(token)
    except ValueError:
        raise InvalidCursor(_REFUSED) from None
    body, mac = raw[: _BODY.size], raw[_BODY.size :]
    # One spelling a token: the decoder passes over characters that are none of its own.
    if urlsafe_b64encode(raw).decode() != token:
        raise InvalidCursor(_REFUSED)
    key_id, size, position = _BODY.unpack(body)
    try:
        key = await keyring.cursor_key_by_id(tenant, UUID(bytes=key_id))
    except NotFound:
        raise InvalidCursor(_REFUSED) from None
    if not hmac.compare_digest(mac, _mac(key, body, question)):
        raise InvalidCursor(_REFUSED)
    return Cursor(size, position)


def _mac(key: SecretKey, body: bytes, question: bytes) -> bytes:
    return key.mac(_DOMAIN + body + question)[:_MAC_BYTES]
