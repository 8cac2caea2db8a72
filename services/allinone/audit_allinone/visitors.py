"""As whom a person meets a fresh `auditlog up`: the demo tenant's admin, and the operator's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from audit_admin.api_key_making import make_api_key
from audit_allinone import demo
from audit_allinone.data_folder import DataFolder
from audit_allinone.profile import Profile, read_profile, write_profile
from audit_allinone.wiring import Places
from audit_backends.opening import opened_backends
from audit_contracts.errors import NotFound, Unauthenticated
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.tenant_directory import TenantRegistry, TenantStatus
from audit_contracts.principal import OPERATOR_TENANT, Role, TenantId
from audit_kit.auth.api_keys import ApiKeyVerifier

CREATED_BY: Final = "auditlog|up"
DEMO_TENANT: Final = TenantId(demo.TENANT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """An admin's API key, and the profile in which it is kept."""

    tenant: TenantId
    made_at: datetime
    token: str = field(repr=False)
    profile: Path

    def keep(self, url: str) -> None:
        """Write the profile for the server at `url`, unless it says that already."""
        profile = Profile(url=url, tenant=self.tenant, token=self.token)
        if read_profile(self.profile) != profile:
            write_profile(self.profile, profile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitors:
    """The operator, who makes tenants, and whose profile the client's verbs use: the demo tenant's, if there is one."""

    operator: Visitor
    guest: Visitor


async def visitors(
    places: Places, folder: DataFolder, *, operator_key: str | None, with_demo: bool, clock: Clock
) -> Visitors:
    """
    Make what is missing of tenants and keys. A profile whose key still works is kept.

    Args:
        operator_key: the operator's first one, if it was just made.
    """
    async with opened_backends("up") as backends:
        key_store = await backends.key_store(places.key_store)
        registry = await backends.tenant_registry(places.databases["admin"], key_store)
        operator = await _visitor(registry, OPERATOR_TENANT, folder.operator_profile, clock, operator_key)
        if with_demo:
            try:
                await registry.tenant(DEMO_TENANT)
            except NotFound:
                await registry.create_tenant(DEMO_TENANT, name=demo.NAME)
            name = DEMO_TENANT
        else:
            kept = read_profile(folder.profile)
            name = OPERATOR_TENANT if kept is None else TenantId(kept.tenant)
        try:
            guest = await _visitor(registry, name, folder.profile, clock)
        except NotFound:
            # Suspended or deleted meanwhile, or a profile of another database.
            guest = replace(operator, profile=folder.profile)
        return Visitors(operator=operator, guest=guest)


async def _visitor(
    registry: TenantRegistry, name: TenantId, profile: Path, clock: Clock, new_key: str | None = None
) -> Visitor:
    """
    An admin of the tenant.

    Raises:
        NotFound: there is no such tenant, or it isn't active.
    """
    tenant = await registry.tenant(name)
    if tenant.status is not TenantStatus.ACTIVE:
        raise NotFound("the tenant isn't active")
    kept = read_profile(profile)
    if new_key is not None:
        token = new_key
    elif kept is not None and await _still_works(registry, name, kept.token, clock):
        token = kept.token
    else:
        made = make_api_key(name, name="auditlog up", role=Role.ADMIN, created_by=CREATED_BY, clock=clock)
        await registry.create_api_key(made.kept)
        token = made.text
    return Visitor(tenant=name, made_at=tenant.created_at, token=token, profile=profile)


async def _still_works(registry: TenantRegistry, tenant: TenantId, token: str, clock: Clock) -> bool:
    try:
        principal = await ApiKeyVerifier(directory=registry, clock=clock).verify(token)
    except Unauthenticated:
        return False
    return principal.tenant == tenant
