"""Tenants: a tenant's admin sees and sets its own; admins of the operator's tenant create, suspend and delete them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Request, Response

from audit_admin.api_key_making import FIRST_KEY_LIFE, MadeKey, make_api_key
from audit_admin.control import Control, require_administrator
from audit_admin.key_models import CreatedApiKeyOut, api_key_fields
from audit_admin.operations import BAD_REQUEST, CONFLICT, OUTDATED, operation_id
from audit_admin.pages import PageQuery
from audit_admin.tenant_models import (
    CreatedTenantOut,
    NewTenantIn,
    TenantOut,
    TenantPageOut,
    TenantPatchIn,
    tenant_fields,
)
from audit_contracts.errors import AlreadyExists, InvalidCursor, WrongState
from audit_contracts.ports.event_queue import Message
from audit_contracts.ports.tenant_directory import ApiKey, Tenant, TenantChanged, TenantStatus
from audit_contracts.ports.tenant_keys import KeyPurpose, NewTenantKey
from audit_contracts.principal import OPERATOR_TENANT, Permission, Principal, Role, TenantId, tenant_id
from audit_contracts.times import from_us
from audit_kit.changes import ChangeRecord
from audit_kit.gate import CurrentPrincipal, route_of
from audit_kit.policies import requires

PREFIX: Final = "/api/v1/tenants"
FIRST_KEY_NAME: Final = "first key"
KEYS_LOOKED_AT: Final = 1_000
"""The newest keys of a tenant, among which its first is looked for when its creation is repeated."""
OPERATOR_FIELDS: Final = frozenset({"status", "ingest", "limits"})
"""What a tenant's own admin doesn't set: they protect the other tenants, or the record from its own admin."""

_ETAG: Final[dict[str, Any]] = {
    "ETag": {"description": "The tenant's version, for If-Match.", "schema": {"type": "string", "examples": ['"3"']}}
}

PathTenant = Annotated[str, Path(examples=["acme"])]
IfMatch = Annotated[
    str,
    Header(alias="If-Match", pattern=r'^(\*|"[1-9][0-9]{0,17}")$', description="The ETag that was seen; else 412."),
]
ANY_VERSION: Final = "*"


def tenants_router(control: Control) -> APIRouter:
    """The routes under /tenants that are about tenants themselves."""
    router = APIRouter(prefix=PREFIX, tags=["tenants"], generate_unique_id_function=operation_id)
    registry = control.registry

    @router.get("", summary="List tenants", response_model_exclude_none=True, responses={400: BAD_REQUEST})
    @requires(Permission.TENANT_READ)
    async def list_tenants(principal: CurrentPrincipal, page: Annotated[PageQuery, Query()]) -> TenantPageOut:
        """Your own tenant; all of them, in the order of their ids, for admins of the operator's tenant."""
        after = _after(page.next_token)
        if principal.may(Permission.TENANTS_ADMINISTER):
            found = list(await registry.tenants(after=after, limit=page.limit + 1))
        else:
            found = [await registry.tenant(principal.tenant)] if after is None else []
        shown = found[: page.limit]
        return TenantPageOut(
            results=[_out(tenant) for tenant in shown],
            count=len(shown),
            next_token=shown[-1].tenant_id if len(found) > page.limit else None,
        )

    @router.post("", status_code=201, summary="Create a tenant", responses={201: {"headers": _ETAG}, 409: CONFLICT})
    @requires(Permission.TENANTS_ADMINISTER)
    async def create_tenant(principal: CurrentPrincipal, new: NewTenantIn, response: Response) -> CreatedTenantOut:
        """
        Create a tenant with its own log and keys, and a first API key for its admin, which expires after 7 days.

        Repeating the request answers the tenant again, with a fresh first key in place of the one before, as long as
        that one was not revoked.
        """
        tenant, key = await _created(control, principal, TenantId(new.tenant_id), new.name)
        control.changed(tenant.tenant_id)
        response.headers["ETag"] = f'"{tenant.version}"'
        response.headers["Location"] = f"{PREFIX}/{tenant.tenant_id}"
        first_key = CreatedApiKeyOut(**api_key_fields(key.kept), api_key=key.text)
        return CreatedTenantOut(**tenant_fields(tenant), first_key=first_key)

    @router.get("/{tenant_id}", summary="Show a tenant", responses={200: {"headers": _ETAG}})
    @requires(Permission.TENANT_READ)
    async def get_tenant(
        tenant_id: PathTenant, principal: CurrentPrincipal, request: Request, response: Response
    ) -> TenantOut:
        """The tenant as it stands, deleted ones included."""
        tenant = await registry.tenant(await control.reachable(principal, tenant_id, route_of(request)))
        response.headers["ETag"] = f'"{tenant.version}"'
        return _out(tenant)

    @router.patch(
        "/{tenant_id}",
        summary="Change a tenant",
        responses={200: {"headers": _ETAG}, 409: CONFLICT, 412: OUTDATED},
    )
    @requires(Permission.TENANT_WRITE)
    async def patch_tenant(
        tenant_id: PathTenant,
        patch: TenantPatchIn,
        principal: CurrentPrincipal,
        request: Request,
        response: Response,
        if_match: IfMatch = ANY_VERSION,
    ) -> TenantOut:
        """
        Set what is named and leave the rest. A suspended tenant reads nothing and still sends events, unless its ingest
        is blocked. Felt by every part within 30 seconds.
        """
        tenant = await control.reachable(principal, tenant_id, route_of(request))
        if patch.model_fields_set & OPERATOR_FIELDS:
            require_administrator(principal, f"setting {', '.join(sorted(OPERATOR_FIELDS))}")
        change = patch.change(_version(if_match))
        if tenant == OPERATOR_TENANT and change.status is TenantStatus.SUSPENDED:
            raise WrongState("the operator's tenant can't be suspended: nobody could take that back")
        record = await control.changes.record(principal, of=tenant)
        changed = await registry.change_tenant(tenant, change, record=partial(_record_of_update, record))
        control.changed(tenant)
        response.headers["ETag"] = f'"{changed.after.version}"'
        return _out(changed.after)

    @router.delete("/{tenant_id}", summary="Delete a tenant", responses={409: CONFLICT, 412: OUTDATED})
    @requires(Permission.TENANT_WRITE)
    async def delete_tenant(
        tenant_id: PathTenant, principal: CurrentPrincipal, request: Request, if_match: IfMatch = ANY_VERSION
    ) -> TenantOut:
        """Mark a suspended tenant as deleted, for good: nobody enters it any more, and its id is never used again."""
        tenant = await control.reachable(principal, tenant_id, route_of(request))
        require_administrator(principal, "deleting a tenant")
        if tenant == OPERATOR_TENANT:
            raise WrongState("the operator's tenant can't be deleted: nobody could administer the others")
        record = await control.changes.record(principal, of=tenant)
        deleted = await registry.delete_tenant(
            tenant,
            version=_version(if_match),
            record=lambda deleted: record.messages(
                "delete",
                ("tenant", tenant),
                before=tenant_fields(deleted.before),
                after=tenant_fields(deleted.after),
            ),
        )
        control.changed(tenant)
        return _out(deleted.after)

    return router


async def _created(control: Control, principal: Principal, tenant: TenantId, name: str) -> tuple[Tenant, MadeKey]:
    now = from_us(control.clock.now_us())
    key = _first_key(control, principal, tenant, now + FIRST_KEY_LIFE)
    record_of_new = await control.changes.record_of_new(principal)

    def record(made: Tenant, keys: Mapping[KeyPurpose, NewTenantKey]) -> Sequence[Message]:
        return _record_of_creation(record_of_new.of(made, keys), made, key.kept)

    try:
        return await control.registry.create_tenant(tenant, name=name, first_key=key.kept, record=record), key
    except AlreadyExists:
        made = await control.registry.tenant(tenant)
        lost = await _lost_first_key(control, principal, made, name, now)
        if lost is None:
            raise
        key = _first_key(control, principal, tenant, lost.expires_at)
        record_again = await control.changes.record(principal, of=tenant)
        await control.registry.create_api_key(
            key.kept,
            in_place_of=lost.key_id,
            record=lambda kept: _record_of_creation(record_again, made, kept),
        )
        return made, key


def _record_of_creation(record: ChangeRecord, tenant: Tenant, first_key: ApiKey) -> Sequence[Message]:
    after = tenant_fields(tenant) | {"first_key": api_key_fields(first_key)}
    return record.messages("create", ("tenant", tenant.tenant_id), after=after)


def _record_of_update(record: ChangeRecord, changed: TenantChanged) -> Sequence[Message]:
    before, after = tenant_fields(changed.before), tenant_fields(changed.after)
    differing = sorted(name for name in after if after[name] != before[name])
    return record.under(changed.after).messages(
        "update",
        ("tenant", changed.after.tenant_id),
        before={name: before[name] for name in differing},
        after={name: after[name] for name in differing},
    )


async def _lost_first_key(
    control: Control, principal: Principal, tenant: Tenant, name: str, now: datetime
) -> ApiKey | None:
    """
    The first key that the principal made with this tenant, while it still opens it: the answer that told it may have
    been lost. To make it anew gives nobody more than they were given before.
    """
    if tenant.name != name or tenant.status is TenantStatus.DELETED:
        return None
    for key in await control.registry.api_keys(tenant.tenant_id, before=None, limit=KEYS_LOOKED_AT):
        if key.name == FIRST_KEY_NAME and key.created_by == principal.name and key.revoked_at is None:
            return key if key.expires_at is not None and key.expires_at > now else None
    return None


def _first_key(control: Control, principal: Principal, tenant: TenantId, expires_at: datetime | None) -> MadeKey:
    return make_api_key(
        tenant,
        name=FIRST_KEY_NAME,
        role=Role.ADMIN,
        created_by=principal.name,
        clock=control.clock,
        expires_at=expires_at,
    )


def _out(tenant: Tenant) -> TenantOut:
    return TenantOut(**tenant_fields(tenant))


def _after(next_token: str) -> TenantId | None:
    if not next_token:
        return None
    try:
        return tenant_id(next_token)
    except ValueError as exc:
        raise InvalidCursor("the next_token is not one of this list") from exc


def _version(if_match: str) -> int | None:
    return None if if_match == ANY_VERSION else int(if_match.strip('"'))
