"""A small world for tests of the kit: a manual clock, tenants in memory, an issuer with its own key."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_contracts.errors import NotFound
from audit_contracts.masking_policy import MaskingPolicy
from audit_contracts.ports.tenant_directory import ApiKey, IngestMode, Tenant, TenantLimits, TenantStatus
from audit_contracts.principal import Role, TenantId
from audit_kit.auth.attempts import RefusedAttempt
from audit_kit.auth.authenticator import opened_authenticator
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.gate import Gate
from audit_kit.part import Part
from audit_kit.running import opened

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


@dataclass(frozen=True, slots=True)
class World:
    """Parts behind their gate, without a server, and an issuer whose tokens they take."""

    app: Gate
    clock: ManualClock
    directory: Directory
    issuer: DevIssuer
    refused: list[RefusedAttempt]

    def token(self, role: Role = Role.ADMIN, *, tenant: TenantId = ACME, subject: str = "ann", **more: Any) -> str:
        now_s = self.clock.now_us() // 1_000_000
        return self.issuer.mint(tenant=tenant, subject=subject, role=role, now_s=now_s, **more)

    def client(self, credential: str | None = None) -> httpx.AsyncClient:
        """A client with `credential` (an admin's token unless told); the empty string sends none."""
        credential = self.token() if credential is None else credential
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test", headers=headers)


@asynccontextmanager
async def world(parts: Sequence[Part], directory: Directory | None = None) -> AsyncIterator[World]:
    clock, issuer, refused = ManualClock(), DevIssuer(Ed25519PrivateKey.generate()), list[RefusedAttempt]()
    known = Directory([tenant(ACME), tenant(GLOBEX)]) if directory is None else directory

    async def on_refused(attempt: RefusedAttempt) -> None:
        refused.append(attempt)

    async with (
        opened_authenticator(issuers=[], own=[issuer.trusted(clock)], directory=known, clock=clock) as authenticator,
        opened(parts, authenticator=authenticator, directory=known, on_refused=on_refused) as app,
    ):
        yield World(app, clock, known, issuer, refused)
