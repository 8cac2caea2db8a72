"""Ids of events, and the fingerprints by which the ledger tells a repeat from a conflict."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec
import orjson

from audit_contracts.event import EntryIn
from audit_contracts.ids import NAMESPACE_KEYED, named, uuid7s
from audit_contracts.principal import Principal
from audit_contracts.times import to_us
from audit_kit.secret_keys import SecretKey

FINGERPRINT_BYTES: Final = 16
_DIGEST_TAG: Final = b"auditlog/entry-digest/1\n"


class RequestKey(msgspec.Struct, frozen=True):
    """An Idempotency-Key, and the digest of the decompressed body that it came with."""

    key: str
    body_digest: bytes


class EventIds:
    """
    Gives ids to the entries of one request.

    An entry's own id stands. Else, with an Idempotency-Key, the id follows from tenant, principal, key, body and
    ordinal, so that the same request sent again makes the same events. Else it is new.
    """

    def __init__(
        self, *, principal: Principal, digest_key: SecretKey, request_key: RequestKey | None, received_at_us: int
    ) -> None:
        self._principal = principal
        self._digest_key = digest_key
        self._request_key = request_key
        self._new = uuid7s(received_at_us)

    @cached_property
    def _principal_prefixed(self) -> bytes:
        return _prefixed(self._principal.issuer) + _prefixed(self._principal.subject)

    def of(self, sent: Mapping[str, Any], entry: EntryIn, ordinal: int) -> tuple[UUID, bytes | None]:
        """
        The id, and the fingerprint unless the id is new.

        Args:
            sent: the fields as they came, under their own names.
            entry: the same, read; its IP address in normal form.
            ordinal: where it stood in the request, counted before any entry is left out.
        """
        if entry.id is not None:
            return entry.id, self._fingerprint(sent, entry)
        if self._request_key is None:
            return next(self._new), None
        principal, request = self._principal, self._request_key
        keyed = named(
            NAMESPACE_KEYED,
            principal.tenant,
            principal.issuer,
            principal.subject,
            request.key,
            request.body_digest,
            ordinal.to_bytes(4),
        )
        return keyed, self._fingerprint(sent, entry)

    def _fingerprint(self, sent: Mapping[str, Any], entry: EntryIn) -> bytes:
        """
        16 bytes over the principal and an HMAC of the fields sent, before masking.

        Times, addresses and ids count by what they mean, not by how they were written. The tenant is left out: it is
        the token's, whether it is said again or not.
        """
        fields = {name: value for name, value in sent.items() if value is not None and name != "tenant_id"}
        if entry.timestamp is not None:
            fields["timestamp"] = to_us(entry.timestamp)
        if entry.ip_address is not None:
            fields["ip_address"] = entry.ip_address
        if entry.id is not None:
            fields["id"] = entry.id.hex
        digest = self._digest_key.mac(_DIGEST_TAG + orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))
        return sha256(self._principal_prefixed + digest).digest()[:FINGERPRINT_BYTES]


def _prefixed(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(4) + raw
