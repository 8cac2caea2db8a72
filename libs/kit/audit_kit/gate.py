"""
The one door of a process: trace, route, identity, policy, then the handler; every error leaves as a problem.

Plain ASGI, and the only layer there is between the server and a handler.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import structlog
from fastapi import Depends
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from audit_contracts.errors import Forbidden, NotFound, TenantSuspended, Unauthenticated
from audit_contracts.ports.tenant_directory import IngestMode, Tenant, TenantDirectory, TenantStatus
from audit_contracts.principal import Permission, Principal
from audit_kit.auth.attempts import Identity, NotEntitled, NotValidNow, OnRefused, RefusedAttempt
from audit_kit.auth.authenticator import Authenticator
from audit_kit.metrics import HTTP_IN_FLIGHT, HTTP_REQUESTS
from audit_kit.negotiation import check_accept, check_content_type
from audit_kit.part import Part
from audit_kit.policies import Access
from audit_kit.problems import Problem, problem_of
from audit_kit.routing import OPTIONS, Endpoint, RouteTable
from audit_kit.tracing import begin_trace

JSON_BODY_BYTES_MAX: Final = 1024 * 1024
"""Of a body that FastAPI reads; raw routes bound their own."""

_PRINCIPAL: Final = "auditlog.principal"
_TENANT: Final = "auditlog.tenant"
_ROUTE: Final = "auditlog.route"
_UNKNOWN: Final = HTTP_REQUESTS.labels("-", "-", "4xx")

log = structlog.get_logger(__name__)


def principal_of(request: Request) -> Principal:
    """Who makes the request; for routes with an `Access` policy."""
    principal: Principal = request.scope[_PRINCIPAL]
    return principal


def tenant_of(request: Request) -> Tenant:
    """The principal's tenant, at most seconds old, that may do this; for routes with an `Access` policy."""
    tenant: Tenant = request.scope[_TENANT]
    return tenant


def route_of(request: Request) -> str:
    """The request's method and path template, as in `GET /api/v1/logs/{id}`."""
    route: str = request.scope[_ROUTE]
    return route


async def _current_principal(request: Request) -> Principal:
    return principal_of(request)


async def _current_tenant(request: Request) -> Tenant:
    return tenant_of(request)


CurrentPrincipal = Annotated[Principal, Depends(_current_principal)]
CurrentTenant = Annotated[Tenant, Depends(_current_tenant)]


class Gate:
    """
    The ASGI application of a set of parts.

    `on_refused` is told of attempts that a genuine identity made and that were refused, before the answer goes out.

    Raises (when built):
        UndeclaredPolicy: a route declares no access policy.
        DuplicateRoute: two parts have the same route.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        authenticator: Authenticator,
        directory: TenantDirectory,
        on_refused: OnRefused | None = None,
    ) -> None:
        self.routes = RouteTable(parts)
        self._authenticator = authenticator
        self._directory = directory
        self._on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the gate answers HTTP alone, and was sent {scope['type']}")
        await _Exchange(self, scope, receive, send).run()

    async def admit(self, scope: Scope, endpoint: Endpoint, headers: _Headers) -> None:
        """Let the request in, with its principal and tenant where the handler finds them; or raise why not."""
        policy = endpoint.policy
        if isinstance(policy, Access):
            principal = await self._authenticator.principal(headers.authorization)
            scope[_PRINCIPAL] = principal
            scope[_TENANT] = await self._admitted_tenant(principal, policy)
            policy.check(principal)
        if endpoint.produces:
            check_accept(headers.accept, endpoint.produces)
        if endpoint.consumes and headers.has_body:
            check_content_type(headers.content_type, endpoint.consumes)

    async def _admitted_tenant(self, principal: Principal, policy: Access) -> Tenant:
        try:
            tenant = await self._directory.tenant(principal.tenant)
        except NotFound as exc:
            # There is no log in which this could be recorded, so the attempt names no tenant.
            identity = Identity(issuer=principal.issuer, subject=principal.subject, tenant=None)
            raise NotEntitled("the tenant of the credential doesn't exist", identity) from exc
        if tenant.status is TenantStatus.DELETED:
            raise TenantSuspended("the tenant is deleted")
        if policy.permission is Permission.LOGS_WRITE:
            if tenant.ingest is IngestMode.BLOCKED:
                raise TenantSuspended("the tenant's ingest is blocked")
        elif tenant.status is TenantStatus.SUSPENDED:
            raise TenantSuspended("the tenant is suspended: it may send events, and read nothing")
        return tenant

    async def report(self, scope: Scope, endpoint: Endpoint, exc: Exception, problem: Problem) -> None:
        """Tell of a refusal, if a genuine identity stands behind it."""
        if self._on_refused is None or not isinstance(exc, Forbidden | Unauthenticated):
            return
        principal: Principal | None = scope.get(_PRINCIPAL)
        if isinstance(exc, NotValidNow | NotEntitled):
            identity = exc.identity
        elif principal is not None:
            identity = Identity(issuer=principal.issuer, subject=principal.subject, tenant=principal.tenant)
        else:
            return
        await self._on_refused(
            RefusedAttempt(identity=identity, principal=principal, route=endpoint.label, problem=problem.kind.slug)
        )


def _alone(exc: Exception) -> Exception:
    """The error inside of a task group that failed for one reason; any other error as it is."""
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


class _Headers:
    """The request's headers that the gate looks at, found in one pass."""

    __slots__ = ("accept", "authorization", "content_length", "content_type", "has_body", "traceparent")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.accept: bytes | None = None
        self.authorization: bytes | None = None
        self.content_length: bytes | None = None
        self.content_type: bytes | None = None
        self.traceparent: bytes | None = None
        self.has_body = False
        for name, value in headers:
            if name == b"authorization":
                # Of two credentials in one request each reader may take another one, so none is taken.
                self.authorization = value if self.authorization is None else b"two Authorization headers"
            elif name == b"accept":
                self.accept = value if self.accept is None else self.accept + b"," + value
            elif name == b"content-type":
                # The same: who reads the body must read it as what was let in.
                self.content_type = value if self.content_type is None else b"two Content-Type headers"
            elif name == b"content-length":
                self.content_length = value
                self.has_body = value != b"0"
            elif name == b"transfer-encoding":
                self.has_body = True
            elif name == b"traceparent":
                self.traceparent = value


class _Exchange:
    """One request and its answer."""

    __slots__ = (
        "_gate",
        "_headers",
        "_is_head",
        "_path",
        "_receive",
        "_received_bytes",
        "_scope",
        "_send",
        "_status",
        "_trace",
    )

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate = gate
        # A copy, because the server looks at its own again when it writes the answer.
        self._scope = dict(scope)
        self._path: str = scope["path"]
        self._receive = receive
        self._send = send
        self._headers = _Headers(scope["headers"])
        self._is_head = scope["method"] == "HEAD"
        self._trace = begin_trace(self._headers.traceparent)
        self._received_bytes = 0
        self._status = 0

    async def run(self) -> None:
        started = time.perf_counter()
        path = self._gate.routes.find(self._path)
        endpoint = path.endpoint(self._scope["method"]) if path else None
        if path is None or endpoint is None:
            _UNKNOWN.inc()
            await self._send_response(self._without_endpoint(path.allow if path else None))
            return
        HTTP_IN_FLIGHT.inc()
        try:
            await self._handle(endpoint)
        finally:
            HTTP_IN_FLIGHT.dec()
            endpoint.seconds.observe(time.perf_counter() - started)
            endpoint.count(f"{self._status // 100}xx" if self._status else "gone")

    def _without_endpoint(self, allow: str | None) -> Response:
        if allow is None:
            return problem_of(HTTPException(404)).response(self._path)
        if self._scope["method"] == OPTIONS:
            return Response(status_code=204, headers={"Allow": allow})
        return problem_of(HTTPException(405, headers={"Allow": allow})).response(self._path)

    async def _handle(self, endpoint: Endpoint) -> None:
        scope = self._scope
        scope["method"] = endpoint.method
        scope[_ROUTE] = endpoint.label
        endpoint.fill(scope)
        try:
            await self._gate.admit(scope, endpoint, self._headers)
            receive = self._bounded_receive if endpoint.is_fastapi else self._receive
            await endpoint.app(scope, receive, self._sending)
        except ClientDisconnect:
            log.debug("client_gone", route=endpoint.label)
        except Exception as raised:
            if self._status:
                # Half an answer is out. Raising makes the server cut the connection, so that nobody takes it for whole.
                raise
            exc = _alone(raised)
            problem = problem_of(exc)
            if problem.kind.status == 500:
                log.error("request_failed", route=endpoint.label, exc_info=exc)
            await self._gate.report(scope, endpoint, exc, problem)
            await self._send_response(problem.response(self._path))

    async def _send_response(self, response: Response) -> None:
        await response(self._scope, self._receive, self._sending)

    async def _sending(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
            headers.append((b"traceresponse", self._trace.header.encode()))
            headers.append((b"x-content-type-options", b"nosniff"))
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        elif self._is_head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)

    async def _bounded_receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            if self._received_bytes > JSON_BODY_BYTES_MAX:
                raise HTTPException(413, f"the body is larger than {JSON_BODY_BYTES_MAX} bytes")
        return message
