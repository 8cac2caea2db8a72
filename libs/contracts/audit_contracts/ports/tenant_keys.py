"""A tenant's wrapped data keys: one a purpose and generation. The key store unwraps them; kit's keyring caches them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

import msgspec

from audit_contracts.principal import TenantId


class KeyPurpose(StrEnum):
    """
    What a tenant key is for; the database shows each part only the purposes that it needs.

    `lookup` (hashes of masked values, owner tags) and `digest` (fingerprints of what was sent) never rotate: what was
    hashed could not be found again.
    """

    TRANSPORT = "transport"
    OWNER = "owner"
    LOOKUP = "lookup"
    DIGEST = "digest"
    CURSOR = "cursor"
    RECEIPT = "receipt"


ROTATING = frozenset({KeyPurpose.TRANSPORT, KeyPurpose.OWNER, KeyPurpose.CURSOR, KeyPurpose.RECEIPT})


class TenantKey(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a tenant's key, wrapped by the key store under (tenant, purpose)."""

    tenant: TenantId
    purpose: KeyPurpose
    key_id: UUID
    generation: int
    wrapped: bytes
    created_at: datetime

    def __repr__(self) -> str:
        return f"TenantKey({self.tenant!r}, {self.purpose.value}, generation {self.generation})"


class NewTenantKey(msgspec.Struct, frozen=True):
    """A key that is being made: in clear, and as the key store wrapped it."""

    key_id: UUID
    plain: bytes
    wrapped: bytes

    def __repr__(self) -> str:
        return f"NewTenantKey({self.key_id})"


class TenantKeys(Protocol):
    """Where wrapped keys lie."""

    async def current(self, tenant: TenantId, purpose: KeyPurpose) -> TenantKey:
        """
        The newest generation.

        Raises:
            NotFound: there is no such tenant.
            DirectoryUnavailable: it can't be read now.
        """

    async def by_id(self, tenant: TenantId, key_id: UUID) -> TenantKey:
        """
        Any generation, by its id.

        Raises:
            NotFound: the tenant has no such key.
            DirectoryUnavailable: it can't be read now.
        """
