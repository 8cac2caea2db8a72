"""A tenant's API keys: made, listed and revoked by its own admins."""

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from audit_admin.api_key_making import check_expiry, check_grant, make_api_key
from audit_admin.control import Control
from audit_admin.key_models import ApiKeyOut, ApiKeyPageOut, CreatedApiKeyOut, NewApiKeyIn, api_key_fields
from audit_admin.operations import BAD_REQUEST, operation_id
from audit_admin.pages import PageQuery
from audit_admin.tenants import PREFIX, PathTenant
from audit_contracts.errors import InvalidCursor
from audit_contracts.principal import Permission
from audit_kit.gate import CurrentPrincipal, route_of
from audit_kit.policies import requires

_LOCATION: Final[dict[str, Any]] = {
    "Location": {"description": "Where the key can be revoked.", "schema": {"type": "string"}}
}

PathKey = Annotated[UUID, Path(examples=["01996b1c-3a40-7c3e-9d5e-0f6b7c1f2a44"])]


def api_keys_router(control: Control) -> APIRouter:
    """The routes under /tenants/{tenant_id}/keys."""
    router = APIRouter(
        prefix=f"{PREFIX}/{{tenant_id}}/keys", tags=["API keys"], generate_unique_id_function=operation_id
    )
    registry = control.registry

    @router.get("", summary="List API keys", responses={400: BAD_REQUEST})
    @requires(Permission.TENANT_READ)
    async def list_api_keys(
        tenant_id: PathTenant, principal: CurrentPrincipal, request: Request, page: Annotated[PageQuery, Query()]
    ) -> ApiKeyPageOut:
        """Newest first, revoked and expired ones included, never with a secret."""
        tenant = await control.own(principal, tenant_id, route_of(request))
        found = await registry.api_keys(tenant, before=_before(page.next_token), limit=page.limit + 1)
        shown = found[: page.limit]
        return ApiKeyPageOut(
            results=[ApiKeyOut(**api_key_fields(key)) for key in shown],
            count=len(shown),
            next_token=str(shown[-1].key_id) if len(found) > page.limit else None,
        )

    @router.post("", status_code=201, summary="Make an API key", responses={201: {"headers": _LOCATION}})
    @requires(Permission.TENANT_WRITE)
    async def create_api_key(
        tenant_id: PathTenant, new: NewApiKeyIn, principal: CurrentPrincipal, request: Request, response: Response
    ) -> CreatedApiKeyOut:
        """Make a key for a machine. The answer shows it this once; what is kept of it can't be turned back into it."""
        tenant = await control.own(principal, tenant_id, route_of(request))
        data_scope = new.data_scope.scope()
        check_grant(principal, new.role, new.scope, data_scope)
        check_expiry(new.expires_at, control.clock)
        made = make_api_key(
            tenant,
            name=new.name,
            role=new.role,
            scope=new.scope,
            data_scope=data_scope,
            expires_at=new.expires_at,
            created_by=principal.name,
            clock=control.clock,
        )
        fields = api_key_fields(made.kept)
        record = await control.changes.record(principal, of=tenant)
        await registry.create_api_key(
            made.kept, record=lambda _: record.messages("create", ("api_key", str(made.kept.key_id)), after=fields)
        )
        control.changed(tenant)
        response.headers["Location"] = f"{PREFIX}/{tenant}/keys/{made.kept.key_id}"
        return CreatedApiKeyOut(**fields, api_key=made.text)

    @router.delete("/{key_id}", summary="Revoke an API key")
    @requires(Permission.TENANT_WRITE)
    async def revoke_api_key(
        tenant_id: PathTenant, key_id: PathKey, principal: CurrentPrincipal, request: Request
    ) -> ApiKeyOut:
        """End a key for good; every part refuses it within 30 seconds. Revoking it again changes nothing."""
        tenant = await control.own(principal, tenant_id, route_of(request))
        record = await control.changes.record(principal, of=tenant)
        revoked = await registry.revoke_api_key(
            tenant,
            key_id,
            record=lambda key: record.messages("revoke", ("api_key", str(key_id)), after=api_key_fields(key)),
        )
        control.changed(tenant)
        return ApiKeyOut(**api_key_fields(revoked))

    return router


def _before(next_token: str) -> UUID | None:
    if not next_token:
        return None
    try:
        return UUID(next_token)
    except ValueError as exc:
        raise InvalidCursor("the next_token is not one of this list") from exc
