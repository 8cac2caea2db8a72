"""The published contract: OpenAPI 3.1 of all parts together, and Swagger UI from the assets that are installed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from importlib import metadata, resources
from typing import Any, Final

import orjson
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response

from audit_kit.part import Json, Part, RawRoute
from audit_kit.policies import PUBLIC, Access
from audit_kit.problems import MEDIA_TYPE
from audit_kit.routing import Endpoint, RouteTable

OPENAPI_PATH: Final = "/openapi.json"
DOCS_PATH: Final = "/docs"

_ASSETS: Final[Mapping[str, str]] = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
# Swagger UI sets styles from its script and draws icons from data URLs; nothing else leaves this origin.
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Audit Log API</title>
<link rel="icon" href="{DOCS_PATH}/favicon-32x32.png">
<link rel="stylesheet" href="{DOCS_PATH}/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{DOCS_PATH}/swagger-ui-bundle.js"></script>
<script src="{DOCS_PATH}/start.js"></script>
</body>
</html>
"""
_START: Final = f"""SwaggerUIBundle({{
  url: "{OPENAPI_PATH}",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
}});
"""
_DESCRIPTION: Final = """An append-only audit log for many tenants.

Every error is a problem document (RFC 9457, `application/problem+json`) with a stable `type` and the request's
`trace_id`. A `traceparent` header (W3C Trace Context) is taken over; each answer names its trace in `traceresponse`.
"""

_PROBLEM_SCHEMA: Final[Json] = {
    "type": "object",
    "description": "An error by RFC 9457.",
    "required": ["type", "title", "status", "instance", "trace_id"],
    "properties": {
        "type": {"type": "string", "format": "uri", "examples": ["urn:auditlog:problem:invalid-entry"]},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri-reference", "description": "The path of the request."},
        "errors": {
            "type": "array",
            "description": "Each fault with its place: a JSON pointer into the body, or a parameter's name.",
            "items": {
                "type": "object",
                "required": ["detail", "code"],
                "properties": {
                    "pointer": {"type": "string", "examples": ["/3/timestamp"]},
                    "parameter": {"type": "string"},
                    "detail": {"type": "string"},
                    "code": {"type": "string"},
                },
            },
        },
        "errors_total": {"type": "integer", "description": "How many faults there are, where `errors` was cut short."},
        "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    },
}

_RETRY_AFTER: Final[Json] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_RATE_LIMIT: Final[Json] = {
    "RateLimit": {"description": "What is left, in events.", "schema": {"type": "string"}},
    "RateLimit-Policy": {"description": "The limits, in events.", "schema": {"type": "string"}},
}
_PROBLEMS: Final[Mapping[int, tuple[str, str, Json]]] = {
    400: ("BadRequest", "The request can't be read.", {}),
    401: (
        "Unauthenticated",
        "No credential, or none that can be verified.",
        {"WWW-Authenticate": {"schema": {"type": "string"}}},
    ),
    403: ("Forbidden", "The identity lacks the right, or its tenant is suspended.", {}),
    404: ("NotFound", "There is no such thing, or none that the caller may know of.", {}),
    406: ("NotAcceptable", "The Accept header allows nothing that this can answer.", {}),
    409: ("Conflict", "A thing of this name exists, or is in a state that doesn't allow this.", {}),
    412: ("Outdated", "The thing has changed since the caller saw it.", {}),
    413: ("TooLarge", "A bound on size was passed.", {}),
    415: ("UnsupportedMediaType", "The body's type or encoding isn't understood.", {}),
    422: ("Invalid", "The document, a parameter or a filter is wrong; `errors` says where.", {}),
    429: ("RateLimited", "Over the rate limit.", {**_RETRY_AFTER, **_RATE_LIMIT}),
    500: ("InternalError", "Something broke on our side.", {}),
    503: ("Unavailable", "Nothing happened, or it isn't known; try again.", _RETRY_AFTER),
}
"""The problem answers that operations refer to as `#/components/responses/<name>`."""


_SECURITY_SCHEMES: Final[Json] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of a trusted issuer, with the claims `tenant_id` and `access_level`.",
    },
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "alk.<tenant>.<id>.<secret>",
        "description": "An API key of a tenant, sent like a token.",
    },
}


def openapi_document(parts: Sequence[Part]) -> dict[str, Any]:
    """
    The OpenAPI 3.1 document of the parts' routes.

    Each operation gets its security requirement from its policy, and the problems that a route of its kind can answer;
    an answer that it declares itself stands.
    """
    routers = [router for part in parts for router in part.routers]
    document = get_openapi(
        title="Audit Log API",
        version=metadata.version("auditlog"),
        description=_DESCRIPTION,
        routes=[route for router in routers for route in router.routes],
    )
    paths: dict[str, dict[str, Any]] = document.setdefault("paths", {})
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    for part in parts:
        schemas.update(part.schemas)
        for raw in part.routes:
            if raw.operation is not None:
                paths.setdefault(raw.path, {})[raw.method.lower()] = {"tags": [part.name], **raw.operation}
    for endpoint in RouteTable(parts).endpoints:
        operation = paths.get(endpoint.path, {}).get(endpoint.method.lower())
        if operation is not None:
            _complete(operation, endpoint)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = _PROBLEM_SCHEMA
    document["components"]["responses"] = {
        name: _problem_response(description, headers) for name, description, headers in _PROBLEMS.values()
    }
    document["components"]["securitySchemes"] = _SECURITY_SCHEMES
    return document


def _complete(operation: dict[str, Any], endpoint: Endpoint) -> None:
    statuses = {406, 500}
    if isinstance(endpoint.policy, Access):
        permission = endpoint.policy.permission.value
        operation["security"] = [{scheme: [permission]} for scheme in _SECURITY_SCHEMES]
        statuses |= {401, 403, 429, 503}
    else:
        operation["security"] = []
    if "{" in endpoint.path:
        statuses |= {404}
    if endpoint.consumes:
        statuses |= {400, 413, 415}
    if endpoint.consumes or operation.get("parameters"):
        statuses |= {422}
    responses = operation.setdefault("responses", {})
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    for status in sorted(statuses):
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{_PROBLEMS[status][0]}"})


def _problem_response(description: str, headers: Json) -> Json:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": description, **({"headers": headers} if headers else {}), "content": content}


def docs_part(parts: Sequence[Part]) -> Part:
    """`/openapi.json` and `/docs` for `parts`, without a credential: the contract is no secret."""
    document = orjson.dumps(openapi_document(parts))

    async def openapi(_request: Request) -> Response:
        return Response(document, media_type="application/json")

    async def page(_request: Request) -> Response:
        return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _CSP})

    async def start(_request: Request) -> Response:
        return Response(_START, media_type="text/javascript")

    handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
        OPENAPI_PATH: openapi,
        DOCS_PATH: page,
        f"{DOCS_PATH}/start.js": start,
    }
    handlers |= {f"{DOCS_PATH}/{name}": _asset_handler(name) for name in _ASSETS}
    return Part(
        name="docs",
        routes=[
            RawRoute(method="GET", path=path, handler=handler, policy=PUBLIC, operation=None, produces=())
            for path, handler in handlers.items()
        ],
    )


def _asset_handler(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def handler(_request: Request) -> Response:
        headers = {"Cache-Control": "public, max-age=3600"}
        return Response(_asset(name), media_type=_ASSETS[name], headers=headers)

    return handler


@cache
def _asset(name: str) -> bytes:
    return (resources.files("fastapi_swagger") / "resources" / name).read_bytes()
