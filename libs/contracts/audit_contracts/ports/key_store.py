"""The root of all keys: wraps and unwraps a tenant's data keys, and keeps none of them."""

from __future__ import annotations

from typing import Protocol

import msgspec

from audit_contracts.principal import TenantId


class DataKey(msgspec.Struct, frozen=True):
    """A fresh 32-byte key in clear, and as the root wrapped it for storage."""

    plain: bytes
    wrapped: bytes

    def __repr__(self) -> str:
        return "DataKey(…)"


class KeyStore(Protocol):
    """
    Envelope encryption of data keys under a root that never leaves the store (a file of mode 0600, KMS).

    `tenant` and `purpose` are bound into the wrapping (KMS: the encryption context), so that a key wrapped for one
    can't be unwrapped as another's.
    """

    async def new_data_key(self, tenant: TenantId, purpose: str) -> DataKey:
        """
        A random key of 32 bytes.

        Raises:
            KeyUnavailable: the store can't be reached.
        """

    async def unwrap(self, tenant: TenantId, purpose: str, wrapped: bytes) -> bytes:
        """
        The key in clear.

        Raises:
            KeyUnavailable: the store can't be reached.
            SealBroken: the bytes were altered, or wrapped for another tenant, purpose or root.
        """

    async def close(self) -> None:
        """Let go of connections."""
