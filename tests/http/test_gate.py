"""The door in front of every handler: who gets in, and how those are told who don't."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from audit_contracts.errors import AuditLogError, InvalidEntry, QueueFull, SealBroken, TenantMismatch, Violation
from audit_contracts.ports.tenant_directory import IngestMode, TenantStatus
from audit_contracts.principal import Permission, Role, TenantId
from audit_kit.gate import JSON_BODY_BYTES_MAX, CurrentPrincipal, CurrentTenant, Gate, principal_of, route_of, tenant_of
from audit_kit.metrics import REGISTRY
from audit_kit.part import Part, RawRoute
from audit_kit.policies import PUBLIC, Access, UndeclaredPolicy, public, requires
from audit_kit.routing import DuplicateRoute, NestedRouter
from tests.kit_world import ACME, GLOBEX, Directory, World, tenant, world

WRITE, READ = Access(permission=Permission.LOGS_WRITE), Access(permission=Permission.LOGS_READ)
AUDITORS = Access(permission=Permission.LOGS_READ, roles=frozenset({Role.ADMIN, Role.AUDITOR}))
JSON_TYPE = {"Content-Type": "application/json"}


class Thing(BaseModel):
    size: int


class Fault:
    """The error that the route /fault raises next."""

    def __init__(self) -> None:
        self.error: Exception = RuntimeError("unset")


async def echo(request: Request) -> Response:
    principal, tenant = principal_of(request), tenant_of(request)
    text = f'{{"who": "{principal.name}", "tenant": "{tenant.tenant_id}", "route": "{route_of(request)}"}}'
    return Response(text, media_type="application/json")


def things() -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    @router.get("/things")
    @public
    async def listed(limit: int = 10) -> list[int]:
        return [limit]

    @router.post("/things/{name}", status_code=201)
    @requires(Permission.TENANT_WRITE, roles={Role.ADMIN})
    async def made(name: str, thing: Thing, principal: CurrentPrincipal, owner: CurrentTenant) -> dict[str, str | int]:
        return {"name": name, "size": thing.size, "by": principal.subject, "tenant": owner.tenant_id}

    return router


def parts(fault: Fault) -> list[Part]:
    async def fails(_request: Request) -> Response:
        raise fault.error

    async def breaks_off(_request: Request) -> Response:
        async def half() -> AsyncIterator[bytes]:
            yield b"half"
            raise fault.error

        return StreamingResponse(half(), media_type="application/json")

    def raw(method: str, path: str, handler: Any, policy: Any = READ, **more: Any) -> RawRoute:
        return RawRoute(method=method, path=path, handler=handler, policy=policy, operation=None, **more)

    ingest = raw("POST", "/api/v1/logs", echo, WRITE, consumes=("application/json",))
    query = [raw("GET", "/api/v1/logs", echo), raw("GET", "/api/v1/logs/{id}", echo), raw("GET", "/fault", fails)]
    query.append(raw("GET", "/auditors", echo, AUDITORS))
    return [
        Part(name="ingest", routes=[ingest]),
        Part(name="query", routes=[*query, raw("GET", "/half", breaks_off)]),
        Part(name="admin", routers=[things()]),
    ]


@pytest.fixture
def fault() -> Fault:
    return Fault()


@pytest.fixture
async def open_world(fault: Fault) -> AsyncIterator[World]:
    async with world(parts(fault)) as opened:
        yield opened


@pytest.fixture
async def client(open_world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with open_world.client() as opened:
        yield opened


def slug(answer: httpx.Response) -> str:
    """The problem's name, once the answer was seen to be a whole problem document."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["title"]
    assert document["instance"] == answer.request.url.path
    assert document["trace_id"] == answer.headers["traceresponse"].split("-")[1]
    name: str = document["type"].removeprefix("urn:auditlog:problem:")
    return name


async def test_a_raw_handler_gets_the_principal_and_its_tenant(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/logs", json={})
    assert answer.json() == {"who": "urn:auditlog:dev|ann", "tenant": "acme", "route": "POST /api/v1/logs"}


async def test_a_fastapi_handler_gets_the_same(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/things/box", json={"size": 3})
    assert (answer.status_code, answer.json()) == (201, {"name": "box", "size": 3, "by": "ann", "tenant": "acme"})


async def test_a_route_without_a_declared_policy_fails_at_the_start() -> None:
    router = APIRouter()

    @router.get("/open")
    async def forgotten() -> None: ...

    with pytest.raises(UndeclaredPolicy, match=r"GET /open declares no access policy"):
        async with world([Part(name="careless", routers=[router])]):
            raise AssertionError


async def test_two_parts_with_the_same_route_fail_at_the_start(fault: Fault) -> None:
    with pytest.raises(DuplicateRoute, match=r"POST /api/v1/logs"):
        async with world([parts(fault)[0], parts(fault)[0]]):
            raise AssertionError


async def test_a_nested_router_fails_at_the_start() -> None:
    outer = APIRouter()
    outer.include_router(things())
    with pytest.raises(NestedRouter):
        async with world([Part(name="nested", routers=[outer])]):
            raise AssertionError


@pytest.mark.parametrize("path", ["/api/v1/logs", "/api/v1/logs/17", "/fault"])
async def test_without_a_credential_only_public_routes_answer(open_world: World, path: str) -> None:
    async with open_world.client("") as anonymous:
        refused = await anonymous.get(path)
        assert (refused.status_code, slug(refused)) == (401, "unauthenticated")
        assert refused.headers["www-authenticate"] == 'Bearer realm="auditlog"'
        assert (await anonymous.get("/api/v1/things")).json() == [10]
    assert open_world.refused == []


@pytest.mark.parametrize("credential", ["nonsense", "a.b.c", "alk.acme.short.secret"])
async def test_a_credential_that_is_none_is_a_challenge_and_no_attempt(open_world: World, credential: str) -> None:
    async with open_world.client(credential) as client:
        refused = await client.get("/api/v1/logs")
        assert (refused.status_code, slug(refused)) == (401, "unauthenticated")
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    assert open_world.refused == []


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "bearer", ""])
async def test_another_scheme_is_refused(open_world: World, header: str) -> None:
    async with open_world.client("") as client:
        assert (await client.get("/api/v1/logs", headers={"Authorization": header})).status_code == 401


async def test_two_credentials_in_one_request_are_refused(open_world: World) -> None:
    good = f"Bearer {open_world.token()}"
    async with open_world.client("") as client:
        both = [("Authorization", good), ("Authorization", good)]
        assert (await client.get("/api/v1/logs", headers=both)).status_code == 401


@pytest.mark.parametrize(
    ("role", "write", "read"),
    [(Role.ADMIN, 200, 200), (Role.AUDITOR, 403, 200), (Role.USER, 200, 200), (Role.PRODUCER, 200, 403)],
)
async def test_each_role_may_do_what_it_may(open_world: World, role: Role, write: int, read: int) -> None:
    async with open_world.client(open_world.token(role)) as client:
        assert (await client.post("/api/v1/logs", json={})).status_code == write
        assert (await client.get("/api/v1/logs")).status_code == read


async def test_a_scope_narrows_the_role(open_world: World) -> None:
    async with open_world.client(open_world.token(scope=[Permission.LOGS_WRITE])) as client:
        assert (await client.post("/api/v1/logs", json={})).status_code == 200
        refused = await client.get("/api/v1/logs")
        assert (refused.status_code, slug(refused)) == (403, "forbidden")


async def test_a_genuine_identity_without_the_right_is_told_to_the_audit_trail(open_world: World) -> None:
    async with open_world.client(open_world.token(Role.PRODUCER)) as client:
        await client.get("/api/v1/logs/17")
    (attempt,) = open_world.refused
    assert (attempt.route, attempt.problem) == ("GET /api/v1/logs/{id}", "forbidden")
    assert (attempt.identity.subject, attempt.identity.tenant) == ("ann", ACME)
    assert attempt.principal is not None
    assert attempt.principal.role is Role.PRODUCER


async def test_an_expired_token_is_told_to_the_audit_trail_without_a_principal(open_world: World) -> None:
    expired = open_world.token(ttl_s=-3600)
    async with open_world.client(expired) as client:
        assert slug(await client.get("/api/v1/logs")) == "unauthenticated"
    (attempt,) = open_world.refused
    assert (attempt.problem, attempt.principal, attempt.identity.tenant) == ("unauthenticated", None, ACME)


async def test_a_refusal_by_the_handler_is_told_too(fault: Fault, open_world: World) -> None:
    fault.error = TenantMismatch("the document names another tenant")
    async with open_world.client() as client:
        assert slug(await client.get("/fault")) == "tenant-mismatch"
    assert [attempt.problem for attempt in open_world.refused] == ["tenant-mismatch"]


SUSPENDED, BLOCKED, DELETED = (
    {"status": TenantStatus.SUSPENDED},
    {"ingest": IngestMode.BLOCKED},
    {"status": TenantStatus.DELETED},
)


@pytest.mark.parametrize(
    ("changes", "write", "read"),
    [(SUSPENDED, 200, 403), (BLOCKED, 403, 200), ({**SUSPENDED, **BLOCKED}, 403, 403), (DELETED, 403, 403)],
)
async def test_a_tenants_state_decides_what_is_open(
    fault: Fault, changes: dict[str, object], write: int, read: int
) -> None:
    directory = Directory([tenant(ACME, **changes), tenant(GLOBEX)])
    async with world(parts(fault), directory) as open_world:
        async with open_world.client() as client:
            written = await client.post("/api/v1/logs", json={})
            listed = await client.get("/api/v1/logs")
        async with open_world.client(open_world.token(tenant=GLOBEX)) as client:
            assert (await client.get("/api/v1/logs")).status_code == 200
    assert (written.status_code, listed.status_code) == (write, read)
    assert {slug(answer) for answer in (written, listed) if answer.status_code == 403} == {"tenant-suspended"}
    assert all(answer.json()["detail"] for answer in (written, listed) if answer.status_code == 403)


async def test_a_tenant_that_does_not_exist_is_refused_and_nobodys_attempt(open_world: World) -> None:
    async with open_world.client(open_world.token(tenant=TenantId("nobody"))) as client:
        assert slug(await client.get("/api/v1/logs")) == "forbidden"
    assert [attempt.identity.tenant for attempt in open_world.refused] == [None]


async def test_a_path_shared_by_two_parts_names_the_methods_of_both(client: httpx.AsyncClient) -> None:
    for method in ("PUT", "PATCH", "DELETE"):
        answer = await client.request(method, "/api/v1/logs")
        assert (answer.status_code, slug(answer)) == (405, "method-not-allowed")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    options = await client.options("/api/v1/logs")
    assert (options.status_code, options.headers["allow"], options.content) == (204, "GET, HEAD, OPTIONS, POST", b"")


async def test_head_answers_like_get_without_a_body(client: httpx.AsyncClient) -> None:
    for path in ("/api/v1/logs", "/api/v1/things"):
        get, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", ["/", "/api/v1", "/api/v1/logs/", "/api/v1/logs/1/2", "/API/V1/LOGS", "//api/v1/logs"])
async def test_an_unknown_path_is_a_problem(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"http://test{path}")
    assert (answer.status_code, slug(answer)) == (404, "not-found")


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        ("application/json", 200),
        ("application/*;q=0.1", 200),
        ("text/html,application/xhtml+xml,*/*;q=0.8", 200),
        ("", 200),
        ("text/html", 406),
        ("application/json;q=0", 406),
        ("*/*, application/json;q=0", 406),
        ("application/json;q=none", 406),
        ("text/" + "x" * 2000, 406),
    ],
)
async def test_an_answer_that_nobody_takes_is_not_made(client: httpx.AsyncClient, accept: str, status: int) -> None:
    answer = await client.get("/api/v1/logs", headers={"Accept": accept})
    assert answer.status_code == status
    if status == 406:
        assert slug(answer) == "not-acceptable"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
async def test_a_body_of_another_type_is_refused(client: httpx.AsyncClient, content_type: str, status: int) -> None:
    for path, body in (("/api/v1/logs", b"{}"), ("/api/v1/things/box", b'{"size": 1}')):
        answer = await client.post(path, content=body, headers={"Content-Type": content_type})
        assert answer.status_code in {status, 201 if status == 200 else status}, path
        if status == 415:
            assert slug(answer) == "unsupported-media-type"
            assert answer.headers["accept"] == "application/json"


async def test_a_body_that_fastapi_refuses_says_where_by_pointer(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/things/box", json={"size": "large"})
    assert (answer.status_code, slug(answer)) == (422, "invalid-request")
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/size", "int_parsing")
    assert "large" not in answer.text


async def test_a_parameter_that_fastapi_refuses_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/things", params={"limit": "many"})
    assert slug(answer) == "invalid-request"
    assert [error["parameter"] for error in answer.json()["errors"]] == ["limit"]


@pytest.mark.parametrize("body", [b"{", b'{"size": 1', b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json_is_the_clients_fault(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/api/v1/things/box", content=body, headers=JSON_TYPE)
    assert answer.status_code in {400, 422}
    assert slug(answer) in {"bad-request", "invalid-request"}


async def test_a_body_beyond_the_bound_is_refused_however_it_is_sent(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(JSON_BODY_BYTES_MAX // 65_536 + 1):
            yield b" " * 65_536

    for content in (b" " * (JSON_BODY_BYTES_MAX + 1), endless()):
        answer = await client.post("/api/v1/things/box", content=content, headers=JSON_TYPE)
        assert (answer.status_code, slug(answer)) == (413, "too-large")


async def test_what_breaks_on_our_side_tells_nothing_but_its_trace(fault: Fault, client: httpx.AsyncClient) -> None:
    for fault.error in (RuntimeError("secret 4711"), SealBroken("secret 4711"), AuditLogError("secret 4711")):
        answer = await client.get("/fault")
        assert (answer.status_code, slug(answer)) == (500, "internal-error")
        assert "4711" not in answer.text


async def test_not_done_says_when_to_come_back(fault: Fault, client: httpx.AsyncClient) -> None:
    fault.error = QueueFull("full", retry_after_s=2.3)
    answer = await client.get("/fault")
    assert (answer.status_code, slug(answer), answer.headers["retry-after"]) == (503, "queue-full", "3")


async def test_an_error_out_of_a_task_group_is_the_error_that_it_was(fault: Fault, client: httpx.AsyncClient) -> None:
    fault.error = ExceptionGroup("tasks", [ExceptionGroup("inner", [QueueFull("full")])])
    assert slug(await client.get("/fault")) == "queue-full"
    fault.error = ExceptionGroup("tasks", [QueueFull("full"), RuntimeError("and that")])
    assert slug(await client.get("/fault")) == "internal-error"


async def test_a_client_that_left_is_counted_and_gets_no_answer(fault: Fault, open_world: World) -> None:
    fault.error = ClientDisconnect()
    headers = [(b"authorization", f"Bearer {open_world.token()}".encode())]
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/fault", "headers": headers}
    await open_world.app(scope, receive, send)
    assert sent == []
    labels = {"part": "query", "route": "GET /fault", "status": "gone"}
    assert REGISTRY.get_sample_value("auditlog_http_requests_total", labels) == 1


async def test_a_route_may_be_for_some_roles_alone(open_world: World) -> None:
    for role, status in ((Role.ADMIN, 200), (Role.AUDITOR, 200), (Role.USER, 403)):
        async with open_world.client(open_world.token(role)) as client:
            answer = await client.get("/auditors")
        assert answer.status_code == status
        if status == 403:
            assert answer.json()["detail"] == "this needs one of the roles admin, auditor"


async def test_a_capped_list_of_violations_says_how_many_there_are(fault: Fault, client: httpx.AsyncClient) -> None:
    fault.error = InvalidEntry([Violation("/3/action", "missing", "missing")], total=4711)
    document = (await client.get("/fault")).json()
    assert document["errors"] == [{"pointer": "/3/action", "detail": "missing", "code": "missing"}]
    assert document["errors_total"] == 4711


async def test_half_an_answer_is_cut_off_and_never_ended(fault: Fault, client: httpx.AsyncClient) -> None:
    fault.error = RuntimeError("in the middle")
    with pytest.raises(RuntimeError, match="in the middle"):
        await client.get("/half")


async def test_every_answer_is_for_its_reader_alone(client: httpx.AsyncClient) -> None:
    for path in ("/api/v1/logs", "/api/v1/things", "/nowhere"):
        headers = (await client.get(path)).headers
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_a_trace_is_taken_over_from_its_caller(client: httpx.AsyncClient) -> None:
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    answer = (await client.get("/api/v1/logs", headers=headers)).headers["traceresponse"]
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", answer)
    assert "b7ad6b7169203331" not in answer


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{TRACE.upper()}-b7ad6b7169203331-01",
        f"00-{TRACE}-b7ad6b7169203331-01-more",
    ],
)
async def test_a_trace_that_is_none_is_left_aside(client: httpx.AsyncClient, header: str) -> None:
    answer = (await client.get("/api/v1/logs", headers={"traceparent": header})).headers["traceresponse"]
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", answer)
    assert TRACE not in answer


async def test_what_is_no_http_is_no_business_of_the_gate(open_world: World) -> None:
    async def unused() -> dict[str, Any]:
        raise AssertionError

    async def sent(_message: Any) -> None:
        raise AssertionError

    with pytest.raises(RuntimeError, match="websocket"):
        await open_world.app({"type": "websocket"}, unused, sent)


async def test_the_routes_of_a_gate_can_be_listed_with_their_policies(open_world: World) -> None:
    assert isinstance(open_world.app, Gate)
    policies = {endpoint.label: endpoint.policy for endpoint in open_world.app.routes.endpoints}
    assert policies["GET /api/v1/things"] is PUBLIC
    assert policies["POST /api/v1/logs"] == WRITE
