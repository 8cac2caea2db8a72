"""Tenants and their API keys: what every part reads (`TenantDirectory`), what admin alone writes (`TenantRegistry`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

import msgspec

from audit_contracts.masking_policy import MaskingPolicy
from audit_contracts.principal import DataScope, Permission, Role, TenantId


class TenantStatus(StrEnum):
    """`suspended`: reads are refused. `deleted`: everything is; the data goes later."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


class IngestMode(StrEnum):
    """Whether producers may write; suspension alone leaves it open so that nothing is lost."""

    OPEN = "open"
    BLOCKED = "blocked"


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rate limits, counted in events, for each principal of the tenant and for the tenant as a whole."""

    events_per_s: int = 5_000
    burst_events: int = 50_000


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as its parts see it. `version` grows by one with each change."""

    tenant_id: TenantId
    name: str
    status: TenantStatus
    ingest: IngestMode
    masking: MaskingPolicy
    limits: TenantLimits
    retention_days: int
    created_at: datetime
    version: int


class TenantChange(msgspec.Struct, frozen=True, kw_only=True):
    """What an update sets; `None` leaves a field as it is."""

    name: str | None = None
    status: TenantStatus | None = None
    ingest: IngestMode | None = None
    masking: MaskingPolicy | None = None
    limits: TenantLimits | None = None
    retention_days: int | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """
    A machine's credential. `secret_hash` is SHA-256 of a secret of 32 random bytes, so a slow hash would add nothing.

    `scope` narrows the role as a token's `scope` claim does; `None` leaves it whole.
    """

    tenant: TenantId
    key_id: UUID
    name: str
    role: Role
    scope: frozenset[Permission] | None
    data_scope: DataScope
    secret_hash: bytes
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def __repr__(self) -> str:
        return f"ApiKey(tenant={self.tenant!r}, key_id={self.key_id!s})"


class TenantDirectory(Protocol):
    """What each part may read. Answers may be cached by the caller for at most 30 seconds."""

    async def tenant(self, tenant: TenantId) -> Tenant:
        """
        The tenant as it stands, deleted ones included.

        Raises:
            NotFound: there has never been one of this name.
            DirectoryUnavailable: it can't be read now.
        """

    async def api_key(self, tenant: TenantId, key_id: UUID) -> ApiKey:
        """
        One key of the tenant, expired and revoked ones included.

        Raises:
            NotFound: the tenant has no such key.
            DirectoryUnavailable: it can't be read now.
        """


class TenantRegistry(TenantDirectory, Protocol):
    """What admin writes. Each change is durable when its call returns."""

    async def create_tenant(self, tenant: TenantId, *, name: str) -> Tenant:
        """
        A new active tenant with default policy, its own log (head, `log_id`) and its first keys.

        Raises:
            AlreadyExists: there is or was one of this name; a name is never used again.
            DirectoryUnavailable: nothing was done.
        """

    async def tenants(self, *, after: TenantId | None, limit: int) -> Sequence[Tenant]:
        """Up to `limit` tenants in the order of their ids, those behind `after`."""

    async def change_tenant(self, tenant: TenantId, change: TenantChange) -> Tenant:
        """
        Set what `change` names, and answer the tenant as it is then.

        Raises:
            NotFound: there is none, or it is deleted.
        """

    async def create_api_key(self, key: ApiKey) -> None:
        """Keep a new key of `key.tenant`."""

    async def api_keys(self, tenant: TenantId) -> Sequence[ApiKey]:
        """All keys of the tenant, newest first, revoked ones included."""

    async def revoke_api_key(self, tenant: TenantId, key_id: UUID) -> ApiKey:
        """
        End a key for good; revoking it again changes nothing.

        Raises:
            NotFound: the tenant has no such key.
        """
