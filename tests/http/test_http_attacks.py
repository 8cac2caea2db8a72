"""What no client of good will sends, byte by byte, to a running server: it refuses, stays up, and answers others."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import httpx
import psutil
import pytest
import zstandard
from starlette.requests import Request
from starlette.responses import Response

from audit_kit import http_protocol, running
from audit_kit.part import Part, RawRoute
from audit_kit.policies import PUBLIC
from tests.http.conftest import Live
from tests.kit_world import world

ENTRY: Final = {"user_id": "ann", "action": "UPDATE", "resource_type": "invoice", "resource_id": "7"}
BODY: Final = json.dumps(ENTRY).encode()
LOGS: Final = "/api/v1/logs"
MIB: Final = 1024**2


@pytest.fixture(scope="module")
async def key(live: Live) -> str:
    return (await live.new_tenant())[1]


@pytest.fixture
async def client(live: Live, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with live.client(key) as opened:
        yield opened


async def raw(address: tuple[str, int], sent: bytes) -> bytes:
    """Everything that the server answers until it closes the connection."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(sent)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


def post(key: str, *headers: bytes, body: bytes = BODY, path: str = LOGS, length: bool = True) -> bytes:
    """A POST of JSON with these further header lines, on a connection that ends with its answer."""
    lines = [f"POST {path} HTTP/1.1".encode(), b"Host: localhost", f"Authorization: Bearer {key}".encode()]
    lines += [b"Content-Type: application/json", b"Connection: close", *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(key: str, target: bytes, *headers: bytes) -> bytes:
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: localhost", f"Authorization: Bearer {key}".encode()]
    return b"\r\n".join([*lines, b"Connection: close", *headers]) + b"\r\n\r\n"


def problem(answer: bytes) -> tuple[int, str]:
    """Status and kind of the one problem that was answered."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.count(b"HTTP/1.1 ") == 1, answer
    assert b"content-type: application/problem+json" in head, answer
    document = json.loads(body)
    assert len(document["trace_id"]) == 32
    return int(head.split(b" ", 2)[1]), document["type"].removeprefix("urn:auditlog:problem:")


SMUGGLED: Final = b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
AMBIGUOUS: Final = {
    "both lengths": ((b"Content-Length: 6", b"Transfer-Encoding: chunked"), SMUGGLED),
    "two lengths": ((b"Content-Length: 70", b"Content-Length: 3"), BODY),
    "the same length twice": ((b"Content-Length: 70", b"Content-Length: 70"), BODY),
    "a negative length": ((b"Content-Length: -1",), BODY),
    "a signed length": ((b"Content-Length: +70",), BODY),
    "a length in hex": ((b"Content-Length: 0x46",), BODY),
    "a length beyond 64 bits": ((b"Content-Length: 99999999999999999999999",), BODY),
    "chunked not last": ((b"Transfer-Encoding: chunked, identity",), SMUGGLED),
    "an unknown coding": ((b"Transfer-Encoding: xchunked",), SMUGGLED),
    "a space before the colon": ((b"Transfer-Encoding : chunked",), SMUGGLED),
    "a folded header": ((b"Transfer-Encoding:\r\n chunked",), SMUGGLED),
    "a bare line feed": ((b"X: a\nTransfer-Encoding: chunked",), SMUGGLED),
    "a bare carriage return": ((b"X: a\rTransfer-Encoding: chunked",), SMUGGLED),
    "a NUL in a header": ((b"X: a\0b",), b""),
    "a negative chunk": ((b"Transfer-Encoding: chunked",), b"-1\r\n{}\r\n0\r\n\r\n"),
    "a chunk beyond 64 bits": ((b"Transfer-Encoding: chunked",), b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    "a chunk longer than it says": ((b"Transfer-Encoding: chunked",), b"2\r\n{}{}{}\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_what_two_servers_could_read_differently_is_refused_and_the_connection_ends(
    live: Live, key: str, name: str
) -> None:
    headers, body = AMBIGUOUS[name]
    answer = await raw(live.address, post(key, *headers, body=body, length=False))
    assert problem(answer) == (400, "bad-request")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"get /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/logs/\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/logs/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n: nameless\r\n\r\n",
    ],
)
async def test_what_is_no_http_1_1_is_a_problem_too(live: Live, sent: bytes) -> None:
    assert problem(await raw(live.address, sent)) == (400, "bad-request")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/api/v1/logs/%00", 404),
        (b"/api/v1/logs/..%2f..%2f..%2fetc%2fpasswd", 404),
        (b"/api/v1/logs/../tenants", 404),
        (b"//api/v1/logs", 404),
        (b"/api/v1/logs/", 404),
        (b"/API/V1/LOGS", 404),
        (b"/api/v1/logs/%zz", 404),
        (b"/api/v1/logs/%ff%fe", 404),
        (b"/api/v1/logs;a=b", 404),
        (b"/docs/../api/v1/logs", 404),
        (b"/docs/%2e%2e/%2e%2e/etc/passwd", 404),
        (b"/api/v1/tenants/%2e%2e", 404),
        (b"/api/v1/tenants/a%0d%0aX-Evil:%20b", 404),
        (b"/api/v1/tenants/" + b"a" * 5_000, 404),
        (b"/api/v1/logs/" + b"a" * 30_000, 404),
        (b"/api/v1/logs?next_token=" + b"a" * 5_000, 422),
        (b"/api/v1/logs?" + b"a" * 5_000 + b"=1", 422),
        (b"/api/v1/logs?action=" + b"a" * 5_000, 422),
        (b"/api/v1/logs?action=%00", 422),
        (b"/api/v1/logs?action=%ff", 422),
        (b"/api/v1/logs?action=a%0d%0aX-Evil:b", 422),
        (b"/api/v1/logs?" + b"&".join(b"action=a%d" % i for i in range(101)), 422),
        (b"/api/v1/logs?" + b"&".join(b"action=a%d" % i for i in range(3_000)), 422),
        (b"/api/v1/logs?" + b"&".join([b"flag=a"] * 9_000), 422),
        (b"/api/v1/logs?" + b"&" * 30_000, 422),
        (b"/api/v1/logs?limit=1&limit=1", 422),
        (b"/api/v1/logs?limit=%31%30", 200),
        (b"/api/v1/logs?limit=\xd9\xa1", 400),
        (b"/api/v1/logs?limit=%d9%a1", 422),
    ],
)
async def test_odd_targets_are_refused_for_what_they_are(live: Live, key: str, target: bytes, expected: int) -> None:
    answer = await raw(live.address, get(key, target))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split(b" ", 2)[1]) == expected, answer[:500]
    assert b"evil" not in head.lower()
    assert len(body) < 40_000
    if expected != 200:
        problem(answer)


@pytest.mark.parametrize("where", ["header", "headers", "target"])
async def test_a_head_without_an_end_is_refused_once_it_is_too_large(live: Live, where: str) -> None:
    begin, more = {
        "header": (b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: ", b"a" * MIB),
        "headers": (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"X-A: a\r\n" * (MIB // 8)),
        "target": (b"GET /", b"a" * MIB),
    }[where]
    process = psutil.Process(live.up.process.pid)
    before = process.memory_info().rss
    reader, writer = await asyncio.open_connection(*live.address)
    writer.write(begin)
    async with asyncio.timeout(20):
        answering = asyncio.create_task(reader.read())
        for _ in range(64):
            if answering.done():
                break
            writer.write(more)
            try:
                await writer.drain()
            except OSError:
                break
        # The answer is lost where the server's end of the connection goes first.
        (answer,) = await asyncio.gather(answering, return_exceptions=True)
    writer.close()
    if isinstance(answer, bytes) and answer:
        assert problem(answer)[0] in (400, 431)
    else:
        assert answer == b"" or isinstance(answer, OSError)
    assert process.memory_info().rss - before < 32 * MIB


async def test_a_large_head_that_ends_is_read(live: Live, key: str) -> None:
    answer = await raw(live.address, get(key, b"/api/v1/logs?limit=1", b"X-A: " + b"a" * 30_000))
    assert answer.startswith(b"HTTP/1.1 200")


async def test_requests_in_one_breath_are_answered_in_their_order(live: Live, key: str) -> None:
    request = post(key).replace(b"Connection: close\r\n", b"")
    answer = await raw(live.address, request * 20 + get(key, b"/livez"))
    assert answer.count(b"HTTP/1.1 201") == 20
    assert answer.rstrip().endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.3"])
async def test_no_other_protocol_is_spoken(live: Live, protocol: bytes) -> None:
    lines = [b"GET /livez HTTP/1.1", b"Host: x", b"Connection: Upgrade, close", b"Upgrade: " + protocol]
    answer = await raw(live.address, b"\r\n".join([*lines, b"Sec-WebSocket-Version: 13"]) + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_body_is_asked_for_only_of_who_may_send_it(live: Live, key: str) -> None:
    allowed = await raw(live.address, post(key, b"Expect: 100-continue"))
    assert allowed.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201")
    head = post("nobody", b"Expect: 100-continue", b"Content-Length: 16777216", body=b"", length=False)
    assert problem(await raw(live.address, head)) == (401, "unauthenticated")
    head = post(key, b"Expect: 100-continue", b"Content-Length: 16777216", body=b"", length=False)
    assert problem(await raw(live.address, head)) == (413, "too-large")


DOUBLED: Final = {
    "Authorization": ((b"Authorization: Bearer x",), 401),
    "Content-Type": ((b"Content-Type: text/plain",), 415),
    "the same Content-Type": ((b"Content-Type: application/json",), 415),
    "Idempotency-Key": ((b"Idempotency-Key: a", b"Idempotency-Key: b"), 422),
}


@pytest.mark.parametrize("name", DOUBLED)
async def test_a_header_of_which_each_reader_could_take_another_is_refused(live: Live, key: str, name: str) -> None:
    headers, status = DOUBLED[name]
    assert problem(await raw(live.address, post(key, *headers)))[0] == status


@pytest.mark.parametrize("value", [b"", b" ", b"a" * 256, b"\xff", "ключ".encode(), b"a\tb", b"\x7f"])
async def test_an_idempotency_key_that_is_none_is_refused(live: Live, key: str, value: bytes) -> None:
    assert problem(await raw(live.address, post(key, b"Idempotency-Key: " + value)))[0] in (400, 422)


@pytest.mark.parametrize("value", ["a", "a" * 255, "a b", "'; DROP TABLE x; --", "../../x", "%00", '{"a":1}', "*"])
async def test_an_odd_idempotency_key_is_a_key_like_any_other(client: httpx.AsyncClient, value: str) -> None:
    answers = [await client.post(LOGS, json=ENTRY, headers={"Idempotency-Key": value}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] == answers[1].json()["id"]


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json, text/plain",
        "application/json/x",
        "application/jsonx",
        "*/*",
        "",
        "application/json" + ";a=b" * 1_000,
    ],
)
@pytest.mark.parametrize("path", [LOGS, "/api/v1/tenants", "/api/v1/mock-login"])
async def test_json_under_another_name_is_refused(live: Live, path: str, media_type: str) -> None:
    async with live.client(live.operator_key) as client:
        answer = await client.post(path, content=BODY, headers={"Content-Type": media_type})
    assert (answer.status_code, answer.headers["content-type"]) == (415, "application/problem+json")


BROKEN_BODIES: Final[dict[str, tuple[bytes, str, int]]] = {
    "gzip in gzip": (gzip.compress(gzip.compress(BODY)), "gzip", 422),
    "two codings": (gzip.compress(gzip.compress(BODY)), "gzip, gzip", 415),
    "gzip cut short": (gzip.compress(BODY)[:-5], "gzip", 400),
    "zstd cut short": (zstandard.compress(BODY)[:-3], "zstd", 400),
    "gzip called zstd": (gzip.compress(BODY), "zstd", 400),
    "not compressed": (BODY, "gzip", 400),
    "nothing": (b"", "gzip", 400),
    "a bomb of 1 GiB": (zstandard.compress(b"\0" * 64 * MIB) * 16, "zstd", 413),
    "a bomb in gzip": (gzip.compress(b"[" * 64 * MIB, compresslevel=9), "gzip", 413),
    "a window of 2 GiB": (b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00", "zstd", 400),
    "brotli": (BODY, "br", 415),
    "compress": (BODY, "compress", 415),
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
@pytest.mark.parametrize("path", [LOGS, f"{LOGS}/bulk"])
async def test_a_compressed_body_that_is_none_is_refused(
    live: Live, client: httpx.AsyncClient, path: str, name: str
) -> None:
    body, coding, status = BROKEN_BODIES[name]
    process = psutil.Process(live.up.process.pid)
    before = process.memory_info().rss
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = await client.post(path, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert process.memory_info().rss - before < 96 * MIB


async def test_nothing_that_is_sent_comes_back_in_a_header(live: Live, client: httpx.AsyncClient) -> None:
    evil = "x\r\nX-Evil: yes"
    answers = [
        await client.post(LOGS, json=ENTRY | {"resource_id": evil, "details": evil}),
        await client.get(LOGS, params={"action": evil}),
        await client.get(f"{LOGS}/{'x%0d%0aX-Evil:yes'}"),
    ]
    async with live.client(live.operator_key) as operator:
        answers.append(await operator.post("/api/v1/tenants", json={"tenant_id": evil, "name": "x"}))
        name = f"t{uuid.uuid4().hex}"
        answers.append(await operator.post("/api/v1/tenants", json={"tenant_id": name, "name": evil}))
    assert [answer.status_code for answer in answers] == [201, 422, 404, 422, 422]
    for answer in answers:
        assert "x-evil" not in answer.headers
        assert "evil" not in str(answer.headers).lower()
    assert answers[0].headers["location"] == f"{LOGS}/{answers[0].json()['id']}"


async def test_a_hundred_connections_that_say_nothing_keep_nobody_waiting(
    live: Live, client: httpx.AsyncClient
) -> None:
    silent = [socket.create_connection(live.address) for _ in range(100)]
    begun = [socket.create_connection(live.address) for _ in range(100)]
    for one in begun:
        one.sendall(b"POST /api/v1/logs HTTP/1.1\r\nHost: x\r\nContent-Le")
    try:
        async with asyncio.timeout(10):
            for _ in range(20):
                assert (await client.post(LOGS, json=ENTRY)).status_code == 201
    finally:
        for one in (*silent, *begun):
            one.close()


@asynccontextmanager
async def a_server() -> AsyncIterator[tuple[str, int]]:
    """The kit's server in this process, with a route that reads its body."""

    async def read(request: Request) -> Response:
        return Response(b"%d" % len(await request.body()), media_type="application/json")

    routes = [
        RawRoute(method=method, path="/read", handler=read, policy=PUBLIC, operation=None) for method in ("GET", "POST")
    ]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with world([Part(name="reading", routes=routes)]) as opened:
            server = running._Server(opened.app, listener)
            serving = asyncio.create_task(server.serve_socket())
            await server.listening.wait()
            try:
                yield server.address.host, server.address.port
            finally:
                await server.drain()
                await serving


SLOW: Final[dict[str, Sequence[bytes]]] = {
    "silence": [],
    "a head that never ends": [b"GET /read HTTP/1.1\r\n", *(b"X-%d: a\r\n" % i for i in range(1_000))],
    "empty lines": [b"\r\n"] * 1_000,
    "a second head that never ends": [b"GET /read HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /re", *([b"a"] * 1_000)],
    "empty lines after an answer": [b"GET /read HTTP/1.1\r\nHost: x\r\n\r\n", *([b"\r\n"] * 1_000)],
    "a body that never ends": [b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", *([b"a"] * 1_000)],
}


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave clients half a second for a request, and look for late ones ten times a second."""
    monkeypatch.setattr(http_protocol, "HEAD_S_MAX", 0.5)
    monkeypatch.setattr(http_protocol, "REQUEST_S_MAX", 0.5)
    monkeypatch.setattr(running, "_TICKS_BETWEEN_LOOKS", 1)


@pytest.mark.parametrize("name", SLOW)
async def test_who_sends_a_request_too_slowly_is_left(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    hurry(monkeypatch)
    async with a_server() as address, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)

        async def trickle() -> None:
            for piece in SLOW[name]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)  # as slowly as it takes

        trickling = asyncio.create_task(trickle())
        (read,) = await asyncio.gather(reader.read(), return_exceptions=True)
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
        writer.close()
    answered = read if isinstance(read, bytes) else b""
    assert answered.count(b"HTTP/1.1 ") == answered.count(b"HTTP/1.1 200") <= 1


async def test_who_sends_a_request_in_time_may_be_slow_between_two(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    async with a_server() as (host, port), httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
        async with client.stream("GET", "/read") as first:
            connection = first.extensions["network_stream"]
            assert await first.aread() == b"0"
        await asyncio.sleep(1)  # longer than a request may take
        async with client.stream("POST", "/read", content=b"abc") as second:
            assert second.extensions["network_stream"] is connection
            assert await second.aread() == b"3"
