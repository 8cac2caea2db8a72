"""A small world for tests of the kit: a manual clock, tenants in memory, an issuer with its own key."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from audit_contracts.errors import NotFound
from audit_contracts.masking_policy import MaskingPolicy
from audit_contracts.ports.tenant_directory import ApiKey, IngestMode, Tenant, TenantLimits, TenantStatus
from audit_contracts.principal import TenantId

if TYPE_CHECKING:
    from collections.abc import Iterable

ACME = TenantId("acme")
GLOBEX = TenantId("globex")


class ManualClock:
    """Wall time begins now, because PyJWT looks at the real one; both times go on only when told."""

    def __init__(self) -> None:
        self._wall_us = time.time_ns() // 1000
        self._monotonic_s = 1000.0

    def now_us(self) -> int:
        return self._wall_us

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        self._wall_us += round(seconds * 1_000_000)
        self._monotonic_s += seconds


def tenant(name: TenantId, **changes: object) -> Tenant:
    as_made = Tenant(
        tenant_id=name,
        name=name.title(),
        status=TenantStatus.ACTIVE,
        ingest=IngestMode.OPEN,
        masking=MaskingPolicy(),
        limits=TenantLimits(),
        retention_days=365,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        version=1,
    )
    return msgspec.structs.replace(as_made, **changes)


class Directory:
    """Tenants and keys in memory, and how often each was asked for."""

    def __init__(self, tenants: Iterable[Tenant] = (), keys: Iterable[ApiKey] = ()) -> None:
        self.tenants = {tenant.tenant_id: tenant for tenant in tenants}
        self.keys = {(key.tenant, key.key_id): key for key in keys}
        self.reads = 0

    async def is_development(self) -> bool:
        return False

    async def tenant(self, tenant: TenantId) -> Tenant:
        self.reads += 1
        if tenant not in self.tenants:
            raise NotFound("no such tenant")
        return self.tenants[tenant]

    async def api_key(self, tenant: TenantId, key_id: UUID) -> ApiKey:
        self.reads += 1
        if (tenant, key_id) not in self.keys:
            raise NotFound("no such key")
        return self.keys[tenant, key_id]
