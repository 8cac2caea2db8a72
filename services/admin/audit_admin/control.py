"""What every route of admin works with, and which tenants a principal may reach by it."""

from __future__ import annotations

from dataclasses import dataclass

from audit_admin.outbox_relay import OutboxRelay
from audit_contracts import principal as principals
from audit_contracts.errors import Forbidden, NotFound
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.tenant_directory import TenantRegistry
from audit_contracts.principal import Permission, Principal, TenantId
from audit_kit.access import AccessRecorder
from audit_kit.auth.attempts import Identity, RefusedAttempt
from audit_kit.changes import ChangeRecorder
from audit_kit.directory import CachedDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The ports of admin. `directory` is what this process's gate reads too, so that a change is felt at once."""

    registry: TenantRegistry
    directory: CachedDirectory
    access: AccessRecorder
    changes: ChangeRecorder
    relay: OutboxRelay
    clock: Clock

    async def reachable(self, principal: Principal, tenant_id: str, route: str) -> TenantId:
        """
        The tenant of a path, where the principal may know of it: its own, or any for an administrator of tenants.

        Raises:
            NotFound: it may not, which is recorded; or there can't be one of this id.
        """
        if tenant_id == principal.tenant:
            return principal.tenant
        if principal.may(Permission.TENANTS_ADMINISTER):
            try:
                return principals.tenant_id(tenant_id)
            except ValueError as exc:
                raise NotFound("there is no such tenant") from exc
        await self.access.refused(
            RefusedAttempt(
                identity=Identity(issuer=principal.issuer, subject=principal.subject, tenant=principal.tenant),
                principal=principal,
                route=route,
                problem="not-found",
            )
        )
        raise NotFound("there is no such tenant")

    async def own(self, principal: Principal, tenant_id: str, route: str) -> TenantId:
        """
        The principal's own tenant, for what not even an administrator of tenants does in another.

        Raises:
            NotFound: as `reachable`.
            Forbidden: it is another's.
        """
        tenant = await self.reachable(principal, tenant_id, route)
        if tenant != principal.tenant:
            raise Forbidden("a tenant's API keys are its own admins' alone")
        return tenant

    def changed(self, tenant: TenantId) -> None:
        """Let this process see a change that was committed, and have its record sent on."""
        self.directory.forget(tenant)
        self.relay.wake()


def require_administrator(principal: Principal, what: str) -> None:
    """
    Let only administrators of tenants pass.

    Raises:
        Forbidden: `what` says what only they do.
    """
    if not principal.may(Permission.TENANTS_ADMINISTER):
        raise Forbidden(
            f"{what} needs the permission {Permission.TENANTS_ADMINISTER.value}, which only admins of the "
            "operator's tenant have"
        )
