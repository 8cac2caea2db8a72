"""The first identity of a new database: the tenant `operator` and its one key."""

from __future__ import annotations

from typing import Final

from audit_admin.api_key_making import make_api_key
from audit_contracts.errors import AlreadyExists, NotFound
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.tenant_directory import TenantRegistry
from audit_contracts.principal import OPERATOR_TENANT, Role

BOOTSTRAP: Final = "auditlog|migrate"
"""Who made the operator's first key, as its `created_by`."""


async def bootstrap_operator(registry: TenantRegistry, *, clock: Clock) -> str | None:
    """
    Make the tenant `operator` with one key of an admin, and answer the key's text, which is kept nowhere; None where
    the tenant exists.

    Tenant and key are made in one transaction: of many that start together one gets the key, and no crash leaves an
    operator that nobody can be.

    Raises:
        DirectoryUnavailable, KeyUnavailable: nothing was made.
        OutcomeUnknown: it may have been made, and its key is lost then.
    """
    try:
        await registry.tenant(OPERATOR_TENANT)
    except NotFound:
        pass
    else:
        return None
    made = make_api_key(OPERATOR_TENANT, name="first key", role=Role.ADMIN, created_by=BOOTSTRAP, clock=clock)
    try:
        await registry.create_tenant(OPERATOR_TENANT, name="Operator", first_key=made.kept)
    except AlreadyExists:
        return None
    return made.text
