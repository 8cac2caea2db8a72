"""New generations of the keys that seal a tenant's data; nothing is rewritten, and what was sealed still opens."""

from collections.abc import Sequence

from fastapi import APIRouter, Request

from audit_admin.control import Control
from audit_admin.key_models import KeyGenerationOut, KeyRotationOut
from audit_admin.operations import operation_id
from audit_admin.tenants import PREFIX, PathTenant
from audit_contracts.ports.tenant_directory import KeyGeneration
from audit_contracts.principal import Permission
from audit_kit.gate import CurrentPrincipal, route_of
from audit_kit.policies import requires


def key_rotations_router(control: Control) -> APIRouter:
    """The route /tenants/{tenant_id}/key-rotations."""
    router = APIRouter(
        prefix=f"{PREFIX}/{{tenant_id}}/key-rotations", tags=["tenants"], generate_unique_id_function=operation_id
    )

    @router.post("", status_code=201, summary="Rotate a tenant's keys")
    @requires(Permission.TENANT_WRITE)
    async def rotate_keys(tenant_id: PathTenant, principal: CurrentPrincipal, request: Request) -> KeyRotationOut:
        """Add a generation to each key that rotates. Keys that hashes are looked up by never do."""
        tenant = await control.reachable(principal, tenant_id, route_of(request))
        record = await control.changes.record(principal, of=tenant)
        rotated = await control.registry.rotate_keys(
            tenant,
            record=lambda made: record.messages(
                "rotate", ("tenant_keys", tenant), after=_out(made).model_dump(mode="json")
            ),
        )
        control.changed(tenant)
        return _out(rotated)

    return router


def _out(rotated: Sequence[KeyGeneration]) -> KeyRotationOut:
    return KeyRotationOut(
        rotated=[
            KeyGenerationOut(
                purpose=made.purpose, generation=made.generation, key_id=made.key_id, created_at=made.created_at
            )
            for made in rotated
        ]
    )
