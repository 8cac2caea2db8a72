"""
Tenant keys ready for use. All of them are synchronous, may be used from any thread, and show no secret in their repr.

No two uses share a key: where a tenant key has several, each gets a key of its own, derived by HKDF under a label.
"""

from __future__ import annotations

import hmac
import os
import secrets
from functools import cached_property
from typing import Final
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from audit_contracts.errors import SealBroken
from audit_contracts.ports.ledger import WrappedOwnerKey
from audit_contracts.principal import TenantId
from audit_contracts.record import OwnerKey

KEY_BYTES: Final = 32
OWNER_TAG_BYTES: Final = 16
WRAPPED_VERSION: Final = 1

_WRAP_TAG: Final = b"auditlog/owner-key/1\n"
_NONCE_BYTES: Final = 12


class SecretKey:
    """A key for message authentication and encryption, each under a key of its own derived from it."""

    def __init__(self, key_id: UUID, key: bytes) -> None:
        self.key_id = key_id
        self._key = key
        self._mac_key = _derived(key, "mac")

    def mac(self, message: bytes) -> bytes:
        """HMAC-SHA256 of `message`, 32 bytes."""
        return hmac.digest(self._mac_key, message, "sha256")

    @cached_property
    def cipher(self) -> AESGCM:
        """AES-256-GCM."""
        return AESGCM(_derived(self._key, "cipher"))

    def __repr__(self) -> str:
        return f"SecretKey({self.key_id})"


class LookupKey:
    """
    The tenant's key for what must be found again by its hash.

    `masking` hashes masked values; what it hashes can't be compared with an owner's tag.
    """

    def __init__(self, key_id: UUID, key: bytes) -> None:
        self.masking = SecretKey(key_id, _derived(key, "masking"))
        self._owner_key = _derived(key, "owner-tag")

    def owner_tag(self, owner: str) -> bytes:
        """16 bytes that stand for an owner where its name must not."""
        return hmac.digest(self._owner_key, owner.encode(), "sha256")[:OWNER_TAG_BYTES]

    def __repr__(self) -> str:
        return f"LookupKey({self.masking.key_id})"


class OwnerWrapping:
    """
    One generation of the tenant's key of purpose `owner`: makes, wraps and opens owner keys, without a call to anybody.

        wrapped = u8 version | nonce[12] | AES-256-GCM(owner key)
                  AAD = "auditlog/owner-key/1\\n" | tenant | "\\n" | version | tag[16] | key_id[16]
    """

    def __init__(self, tenant: TenantId, tenant_key_id: UUID, key: bytes) -> None:
        self.tenant_key_id = tenant_key_id
        self._cipher = AESGCM(key)
        self._aad = b"%s%s\n%c" % (_WRAP_TAG, tenant.encode(), WRAPPED_VERSION)

    def new(self, tag: bytes) -> tuple[WrappedOwnerKey, OwnerKey]:
        """A fresh key for the owner of `tag` (16 bytes): wrapped for keeping, and ready for use."""
        key_id, plain, nonce = uuid4(), secrets.token_bytes(KEY_BYTES), os.urandom(_NONCE_BYTES)
        box = self._cipher.encrypt(nonce, plain, self._aad + tag + key_id.bytes)
        wrapped = WrappedOwnerKey(key_id, tag, self.tenant_key_id, bytes([WRAPPED_VERSION]) + nonce + box)
        return wrapped, OwnerKey(key_id, plain)

    def open(self, owner_key: WrappedOwnerKey) -> OwnerKey:
        """
        The key, ready for use.

        Raises:
            SealBroken: it was altered, or wrapped for another tenant, owner, id or generation.
        """
        wrapped = owner_key.wrapped
        try:
            if wrapped[0] != WRAPPED_VERSION:
                raise SealBroken("not an owner key of version 1")
            plain = self._cipher.decrypt(
                wrapped[1 : 1 + _NONCE_BYTES],
                wrapped[1 + _NONCE_BYTES :],
                self._aad + owner_key.tag + owner_key.key_id.bytes,
            )
        except (InvalidTag, ValueError, IndexError) as exc:
            raise SealBroken("an owner key does not open under its tenant's key") from exc
        return OwnerKey(owner_key.key_id, plain)

    def __repr__(self) -> str:
        return f"OwnerWrapping({self.tenant_key_id})"


def _derived(key: bytes, label: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=f"auditlog/{label}/1".encode()).derive(key)
