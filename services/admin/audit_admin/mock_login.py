"""Tokens for whoever asks: in development mode alone, on this machine alone."""

import re
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from audit_admin.operations import operation_id
from audit_contracts import principal as principals
from audit_contracts.errors import Forbidden, NotFound
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.tenant_directory import TenantDirectory, TenantStatus
from audit_contracts.principal import SUBJECT_CHARS_MAX, TENANT_ID_PATTERN, Role
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.policies import public

_OWN_HOST: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


class MockLoginIn(BaseModel):
    """Who to be."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: Annotated[str, Field(pattern=TENANT_ID_PATTERN, examples=["demo"])]
    user_id: Annotated[str, Field(min_length=1, max_length=SUBJECT_CHARS_MAX, examples=["ada"])]
    access_level: Annotated[Role, Field(examples=["admin"])]


class MockLoginOut(BaseModel):
    """A token that is good for an hour."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 (a word, no password)


def mock_login_router(*, directory: TenantDirectory, issuer: DevIssuer, clock: Clock) -> APIRouter:
    """The route /mock-login."""
    router = APIRouter(prefix="/api/v1/mock-login", tags=["development"], generate_unique_id_function=operation_id)

    @router.post(
        "",
        summary="Be anybody (development mode only)",
        responses={
            403: {"$ref": "#/components/responses/Forbidden"},
            404: {"$ref": "#/components/responses/NotFound"},
            503: {"$ref": "#/components/responses/Unavailable"},
        },
    )
    @public
    async def mock_login(login: MockLoginIn, request: Request) -> MockLoginOut:
        """A token of any user and role of a tenant that exists. Only where `auditlog up` made the database itself."""
        check_own_host(request.headers.getlist("host"))
        tenant = principals.tenant_id(login.tenant_id)
        if (await directory.tenant(tenant)).status is TenantStatus.DELETED:
            raise NotFound("there is no such tenant")
        token = issuer.mint(
            tenant=tenant, subject=login.user_id, role=login.access_level, now_s=clock.now_us() // 1_000_000
        )
        return MockLoginOut(access_token=token)

    return router


def check_own_host(hosts: list[str]) -> None:
    """
    Let requests pass that name this machine by a name that nobody else can point at it.

    A page from elsewhere can have its own name resolve to 127.0.0.1, and its scripts then read our answers; but the
    browser still sends that name as Host.

    Raises:
        Forbidden: another name, none, or several.
    """
    if len(hosts) != 1 or _OWN_HOST.fullmatch(hosts[0]) is None:
        raise Forbidden("this is answered to localhost, 127.0.0.1 and [::1] alone")
