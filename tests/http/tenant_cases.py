"""What each route of all parts is asked for in the name of a tenant, and who may call it: a row for every route."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from audit_contracts.principal import Role, TenantId

LOGS: Final = "/api/v1/logs"
TENANTS: Final = "/api/v1/tenants"
OPERATOR: Final = "operator"
READERS: Final = {Role.ADMIN, Role.AUDITOR, Role.USER}
WRITERS: Final = {Role.ADMIN, Role.USER, Role.PRODUCER}

ALLOWED: Final[Mapping[str, set[str]]] = {
    "POST /api/v1/logs": {*WRITERS, OPERATOR},
    "POST /api/v1/logs/bulk": {*WRITERS, OPERATOR},
    "GET /api/v1/logs": {*READERS, OPERATOR},
    "GET /api/v1/logs/{id}": {*READERS, OPERATOR},
    "GET /api/v1/tenants": {Role.ADMIN, OPERATOR},
    "POST /api/v1/tenants": {OPERATOR},
    "GET /api/v1/tenants/{tenant_id}": {Role.ADMIN, OPERATOR},
    "PATCH /api/v1/tenants/{tenant_id}": {Role.ADMIN, OPERATOR},
    "DELETE /api/v1/tenants/{tenant_id}": {OPERATOR},
    "GET /api/v1/tenants/{tenant_id}/keys": {Role.ADMIN, OPERATOR},
    "POST /api/v1/tenants/{tenant_id}/keys": {Role.ADMIN, OPERATOR},
    "DELETE /api/v1/tenants/{tenant_id}/keys/{key_id}": {Role.ADMIN, OPERATOR},
    "POST /api/v1/tenants/{tenant_id}/key-rotations": {Role.ADMIN, OPERATOR},
}
"""Who may call what in its own tenant, as DESIGN has it; OPERATOR stands for an admin of the operator's tenant."""

PUBLIC: Final = {
    "GET /docs",
    "GET /docs/favicon-32x32.png",
    "GET /docs/start.js",
    "GET /docs/swagger-ui-bundle.js",
    "GET /docs/swagger-ui.css",
    "GET /livez",
    "GET /metrics",
    "GET /openapi.json",
    "GET /readyz",
    "POST /api/v1/mock-login",
}
"""Routes that ask for no credential: nothing of a tenant is behind them."""


@dataclass(frozen=True)
class Known:
    """What somebody may have learned of a tenant: enough to name everything of it."""

    tenant: TenantId
    entry_id: str
    cursor: str
    key_id: str
    secrets: tuple[str, ...] = ()
    """What an answer to another tenant never holds."""


Ask = tuple[str, str, dict[str, Any]]
"""Method, path, and what else `httpx` is told of a request."""


@dataclass(frozen=True)
class Case:
    """A request that names something of a tenant: what its owner gets for it, and what everybody else does."""

    route: str
    what: str
    ask: Callable[[Known], Ask]
    owner: int
    other: int
    slug: str = ""
    """The problem that others get; none where they are answered with what is their own."""
    operator: int | None = None
    """What the operator's admin gets where that isn't what others get."""

    def __str__(self) -> str:
        return f"{self.route} {self.what}"


def entry(**fields: Any) -> dict[str, Any]:
    return {"user_id": "ann", "action": "UPDATE", "resource_type": "invoice", "resource_id": "7", **fields}


def bulk(named: TenantId, **fields: Any) -> list[dict[str, Any]]:
    """Ten entries, of which the one at index 7 names a tenant."""
    return [entry(resource_id=f"{i}", **({"tenant_id": named, **fields} if i == 7 else {})) for i in range(10)]


def lines(entries: Sequence[Any]) -> dict[str, Any]:
    content = b"".join(json.dumps(one).encode() + b"\n" for one in entries)
    return {"content": content, "headers": {"Content-Type": "application/x-ndjson"}}


def own(path: str) -> Callable[[Known], str]:
    return lambda known: f"{TENANTS}/{known.tenant}{path}"


NEW_KEY: Final = {"name": "intruder", "role": "admin"}

CASES: Final[Sequence[Case]] = [
    Case(
        "POST /api/v1/logs",
        "tenant_id of the body",
        lambda known: ("POST", LOGS, {"json": entry(tenant_id=known.tenant)}),
        201,
        403,
        "tenant-mismatch",
    ),
    *(
        Case("POST /api/v1/logs/bulk", what, ask, 201, 403, "tenant-mismatch")
        for what, ask in (
            ("tenant_id of item 7", lambda known: ("POST", f"{LOGS}/bulk", {"json": bulk(known.tenant)})),
            (
                "tenant_id of item 7, skipping errors",
                lambda known: ("POST", f"{LOGS}/bulk", {"json": bulk(known.tenant), "params": {"on_error": "skip"}}),
            ),
            ("tenant_id of line 7", lambda known: ("POST", f"{LOGS}/bulk", lines(bulk(known.tenant)))),
        )
    ),
    Case(
        "GET /api/v1/logs",
        "tenant_id as a filter",
        lambda known: ("GET", LOGS, {"params": {"tenant_id": known.tenant}}),
        200,
        403,
        "tenant-mismatch",
    ),
    Case(
        "GET /api/v1/logs",
        "cursor",
        lambda known: ("GET", LOGS, {"params": {"limit": 1, "next_token": known.cursor}}),
        200,
        400,
        "invalid-cursor",
    ),
    Case(
        "GET /api/v1/logs/{id}",
        "id",
        lambda known: ("GET", f"{LOGS}/{known.entry_id}", {"params": {"wait_ms": 0}}),
        200,
        404,
        "not-found",
    ),
    Case(
        "GET /api/v1/logs/{id}",
        "id without dashes",
        lambda known: ("GET", f"{LOGS}/{known.entry_id.replace('-', '')}", {"params": {"wait_ms": 0}}),
        200,
        404,
        "not-found",
    ),
    Case("GET /api/v1/tenants", "nothing", lambda _known: ("GET", TENANTS, {}), 200, 200),
    Case(
        "GET /api/v1/tenants",
        "page before it",
        lambda known: ("GET", TENANTS, {"params": {"next_token": known.tenant[:-1]}}),
        200,
        200,
    ),
    Case(
        "POST /api/v1/tenants",
        "tenant_id of the body",
        lambda known: ("POST", TENANTS, {"json": {"tenant_id": known.tenant, "name": "Mine"}}),
        403,
        403,
        "forbidden",
        operator=409,
    ),
    Case(
        "GET /api/v1/tenants/{tenant_id}",
        "tenant",
        lambda known: ("GET", own("")(known), {}),
        200,
        404,
        "not-found",
        operator=200,
    ),
    Case(
        "PATCH /api/v1/tenants/{tenant_id}",
        "tenant",
        lambda known: ("PATCH", own("")(known), {"json": {"retention_days": 365}}),
        200,
        404,
        "not-found",
        operator=200,
    ),
    Case(
        "PATCH /api/v1/tenants/{tenant_id}",
        "tenant, what the operator sets",
        lambda known: ("PATCH", own("")(known), {"json": {"status": "active"}}),
        403,
        404,
        "not-found",
        operator=200,
    ),
    Case(
        "DELETE /api/v1/tenants/{tenant_id}",
        "tenant",
        lambda known: ("DELETE", own("")(known), {}),
        403,
        404,
        "not-found",
        operator=409,
    ),
    Case(
        "GET /api/v1/tenants/{tenant_id}/keys",
        "tenant",
        lambda known: ("GET", own("/keys")(known), {}),
        200,
        404,
        "not-found",
        operator=403,
    ),
    Case(
        "POST /api/v1/tenants/{tenant_id}/keys",
        "tenant",
        lambda known: ("POST", own("/keys")(known), {"json": NEW_KEY}),
        201,
        404,
        "not-found",
        operator=403,
    ),
    Case(
        "DELETE /api/v1/tenants/{tenant_id}/keys/{key_id}",
        "tenant and key",
        lambda known: ("DELETE", own(f"/keys/{known.key_id}")(known), {}),
        200,
        404,
        "not-found",
        operator=403,
    ),
    Case(
        "POST /api/v1/tenants/{tenant_id}/key-rotations",
        "tenant",
        lambda known: ("POST", own("/key-rotations")(known), {}),
        201,
        404,
        "not-found",
        operator=201,
    ),
]
