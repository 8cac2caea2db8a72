"""Tenants and their API keys: what every part reads (`TenantDirectory`), what admin alone writes (`TenantRegistry`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, Protocol, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

from audit_contracts.masking_policy import MaskingPolicy
from audit_contracts.ports.event_queue import Message
from audit_contracts.ports.tenant_keys import KeyPurpose, NewTenantKey
from audit_contracts.principal import DataScope, Permission, Role, TenantId

EVENTS_PER_S_MAX: Final = 1_000_000
BURST_EVENTS_MAX: Final = 10_000_000
RETENTION_DAYS_MAX: Final = 36_500
TENANT_NAME_CHARS_MAX: Final = 200
KEY_NAME_CHARS_MAX: Final = 200


_Change = TypeVar("_Change")


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

    events_per_s: Annotated[int, Meta(ge=1, le=EVENTS_PER_S_MAX)] = 5_000
    burst_events: Annotated[int, Meta(ge=1, le=BURST_EVENTS_MAX)] = 50_000


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
    """
    What an update sets; `None` leaves a field as it is. A tenant is deleted by `delete_tenant` alone.

    `version` is the one that the caller has seen, where it wants no change of another's overwritten.
    """

    version: int | None = None
    name: str | None = None
    status: Literal[TenantStatus.ACTIVE, TenantStatus.SUSPENDED] | None = None
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


class TenantChanged(msgspec.Struct, frozen=True):
    """A tenant before and after one change, with none of another's between."""

    before: Tenant
    after: Tenant


class KeyGeneration(msgspec.Struct, frozen=True, kw_only=True):
    """What may be told of one generation of a tenant key."""

    purpose: KeyPurpose
    generation: int
    key_id: UUID
    created_at: datetime


Record = Callable[[_Change], Sequence[Message]]
"""The messages that record a change, given what was changed. It raises where there can be no record."""
RecordOfNew = Callable[[Tenant, Mapping[KeyPurpose, NewTenantKey]], Sequence[Message]]
"""The same for a tenant that is being created, whose keys nobody else can read yet."""


class OutboxDepth(msgspec.Struct, frozen=True):
    """The messages that the event queue is not known to have yet."""

    messages: int
    oldest_age_s: float


class TenantDirectory(Protocol):
    """What each part may read. Answers may be cached by the caller for at most 30 seconds."""

    async def is_development(self) -> bool:
        """
        Whether `auditlog up` made this database for development; only then may anybody be given a token.

        Raises:
            DirectoryUnavailable: it can't be read now.
        """

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
    """
    What admin writes. Each change is durable when its call returns.

    `record` is asked once, when nothing but the commit is left to do; the messages that it answers are kept in the
    outbox by that same commit, so that neither change nor record stands without the other. What it raises is raised,
    and nothing was done. Without one, nothing is recorded.

    Every method raises:
        DirectoryUnavailable: nothing was done.
        OutcomeUnknown: the connection was lost in the commit; look before repeating.
    """

    async def create_tenant(
        self, tenant: TenantId, *, name: str, first_key: ApiKey | None = None, record: RecordOfNew | None = None
    ) -> Tenant:
        """
        A new active tenant with default policy, its own log (head, `log_id`) and its first keys of every purpose.

        `first_key` is kept with it or not at all, so that a crash leaves no tenant that nobody can enter.

        Raises:
            AlreadyExists: there is or was one of this name; a name is never used again.
            KeyUnavailable: the key store can't be reached; nothing was done.
        """

    async def tenants(self, *, after: TenantId | None, limit: int) -> Sequence[Tenant]:
        """Up to `limit` tenants in the order of their ids, those behind `after`, deleted ones included."""

    async def change_tenant(
        self, tenant: TenantId, change: TenantChange, *, record: Record[TenantChanged] | None = None
    ) -> TenantChanged:
        """
        Set what `change` names.

        Raises:
            NotFound: there is none, or it is deleted.
            Outdated: it is at another version than `change.version`.
        """

    async def delete_tenant(
        self, tenant: TenantId, *, version: int | None = None, record: Record[TenantChanged] | None = None
    ) -> TenantChanged:
        """
        Mark a suspended tenant as deleted, for good; its data goes later.

        Raises:
            NotFound: there is none, or it is deleted.
            WrongState: it is not suspended.
            Outdated: it is at another version than `version`.
        """

    async def rotate_keys(
        self, tenant: TenantId, *, record: Record[Sequence[KeyGeneration]] | None = None
    ) -> Sequence[KeyGeneration]:
        """
        Add the next generation of each purpose that rotates. What older ones have sealed still opens; each process
        writes with the new ones 5 minutes later at the latest.

        Raises:
            NotFound: there is none, or it is deleted.
            KeyUnavailable: the key store can't be reached; nothing was done.
        """

    async def create_api_key(
        self, key: ApiKey, *, in_place_of: UUID | None = None, record: Record[ApiKey] | None = None
    ) -> None:
        """
        Keep a new key of `key.tenant`, and revoke the one of id `in_place_of`.

        Raises:
            NotFound: there is no such tenant, or it is deleted.
        """

    async def api_keys(self, tenant: TenantId, *, before: UUID | None, limit: int) -> Sequence[ApiKey]:
        """
        Up to `limit` keys of the tenant by falling id, which for UUIDv7 is newest first, those below `before`; revoked
        and expired ones included.
        """

    async def revoke_api_key(self, tenant: TenantId, key_id: UUID, *, record: Record[ApiKey] | None = None) -> ApiKey:
        """
        End a key for good; revoking it again changes nothing.

        Raises:
            NotFound: the tenant has no such key.
        """

    def taken_from_outbox(self, *, messages_max: int) -> AbstractAsyncContextManager[Sequence[Message]]:
        """
        The oldest messages in the outbox that nobody else has in hand, in the order of their changes.

        They are gone once the block has ended well, and back where it raises or the process dies in it.
        """

    async def outbox_depth(self) -> OutboxDepth:
        """What lies in the outbox, in hand or not."""
