"""GET /api/v1/logs and /api/v1/logs/{id}: plain Starlette, since the answer is encoded once and checked by tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from audit_contracts.errors import NotFound
from audit_contracts.principal import Permission
from audit_kit.access import AccessRecorder
from audit_kit.gate import principal_of, route_of, tenant_of
from audit_kit.part import RawRoute
from audit_kit.policies import Access
from audit_query import openapi, parameters
from audit_query.reading import Page, Reading

READ: Final = Access(permission=Permission.LOGS_READ)
_HEADERS: Final = {"Cache-Control": "private, no-store"}

_encode: Final = msgspec.json.Encoder().encode


def routes(*, reading: Reading, access: AccessRecorder) -> Sequence[RawRoute]:
    """The routes of query. Each read is recorded before it is answered, also where it finds nothing."""

    async def get_logs(request: Request) -> Response:
        principal, tenant, route = principal_of(request), tenant_of(request), route_of(request)
        asked = parameters.question(request.scope["query_string"], principal.tenant)
        page = await access.read(
            principal,
            route=route,
            filter=asked.recorded(),
            work=reading.page(principal, tenant, asked, route=route),
            results=_shown,
        )
        return _answer(page)

    async def get_log(request: Request) -> Response:
        principal, tenant, route = principal_of(request), tenant_of(request), route_of(request)
        wait_ms = parameters.wait_ms(request.scope["query_string"])
        entry_id = _entry_id(request.path_params["id"])
        entry = await access.read(
            principal,
            route=route,
            filter={"id": str(entry_id)},
            work=reading.entry(principal, tenant, entry_id, wait_ms, route=route),
            results=lambda entry: 0 if entry is None else 1,
        )
        if entry is None:
            raise _not_found()
        return _answer(entry)

    return [
        RawRoute(method="GET", path="/api/v1/logs", handler=get_logs, policy=READ, operation=openapi.LIST),
        RawRoute(method="GET", path="/api/v1/logs/{id}", handler=get_log, policy=READ, operation=openapi.POINT),
    ]


def _shown(page: Page) -> int:
    return page.count


def _answer(document: object) -> Response:
    return Response(_encode(document), media_type="application/json", headers=_HEADERS)


def _entry_id(text: str) -> UUID:
    try:
        entry_id = UUID(text)
    except ValueError:
        raise _not_found() from None
    if text.lower() not in (str(entry_id), entry_id.hex):
        raise _not_found()
    return entry_id


def _not_found() -> NotFound:
    # The same for what is another tenant's, out of the reader's sight, or never was.
    return NotFound("there is no entry of this id")
