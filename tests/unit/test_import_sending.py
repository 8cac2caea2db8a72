"""The bulk sender against a server whose answers are planned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import httpx
import orjson
import pytest
import zstandard

from audit_allinone import import_sending
from audit_allinone.failures import Failure
from audit_allinone.import_entries import Chunk, Item, Reject
from audit_allinone.import_lines import Line
from audit_allinone.import_sending import BulkSender

Answer = Callable[[list[str]], httpx.Response]


def chunk(*names: str) -> Chunk:
    return Chunk([Item(Line(i, name.encode(), False), name.encode()) for i, name in enumerate(names, 1)], [])


class Server:
    """Answers requests as planned, the last plan for all that follow, and keeps what was sent."""

    def __init__(self, *plan: Answer) -> None:
        self._plan = list(plan)
        self.requests: list[list[str]] = []
        self.accepted = 0
        self.rejects: list[Reject] = []

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = zstandard.decompress(request.content) if request.headers["content-encoding"] == "zstd" else b""
        names = body.decode().split("\n")
        self.requests.append(names)
        assert request.url.params["on_error"] == "skip"
        return (self._plan.pop(0) if len(self._plan) > 1 else self._plan[0])(names)

    def _add(self, accepted: int, rejects: Sequence[Reject]) -> None:
        self.accepted += accepted
        self.rejects += rejects

    async def take(self, *chunks: Chunk) -> None:
        transport = httpx.MockTransport(self._answer)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await BulkSender(client, on_sent=self._add).send_all(iter(chunks))


def created(names: list[str]) -> httpx.Response:
    return httpx.Response(201, json={"accepted": len(names), "ids": names, "receipt": "r"})


def problem(status: int, headers: dict[str, str] | None = None, **fields: object) -> Answer:
    document = {"title": "No", "status": status, **fields}
    content = orjson.dumps(document)
    return lambda _: httpx.Response(status, content=content, headers=headers)


def gone(_: list[str]) -> httpx.Response:
    raise httpx.ConnectError("gone")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_sending, "PAUSE_S", 0.01)


async def test_a_server_that_comes_back_gets_the_identical_request() -> None:
    server = Server(gone, problem(503), problem(502), created)
    await server.take(chunk("a", "b"))
    assert server.requests == [["a", "b"]] * 4
    assert (server.accepted, server.rejects) == (2, [])


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_obeyed_by_all(status: int) -> None:
    server = Server(problem(status, {"Retry-After": "1"}), created)
    started_s = time.monotonic()
    await server.take(chunk("a"), chunk("b"), chunk("c"))
    assert time.monotonic() - started_s >= 1.0
    assert server.accepted == 3


async def test_a_server_that_stays_away_ends_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_sending, "PATIENCE_S", 0.05)
    with pytest.raises(ExceptionGroup) as raised:
        await Server(gone).take(chunk("a"))
    (failure,) = raised.value.exceptions
    assert isinstance(failure, Failure)
    assert str(failure).startswith("the server can't be reached: gone\n")
    assert str(failure).endswith("Import the file again to go on.")


async def test_what_is_too_large_is_sent_in_parts_down_to_the_one_entry() -> None:
    def large(names: list[str]) -> httpx.Response:
        return problem(413, detail="larger")(names) if "huge" in names or len(names) > 2 else created(names)

    server = Server(large)
    await server.take(chunk("a", "b", "huge", "d"))
    assert server.accepted == 3
    assert [(reject.line.text, reject.reason) for reject in server.rejects] == [(b"huge", "No: larger")]


async def test_refused_entries_are_named_by_their_lines_with_all_their_faults() -> None:
    def some(names: list[str]) -> httpx.Response:
        errors = [
            {"pointer": "/1/action", "detail": "bad", "code": "x"},
            {"pointer": "/1/user_id", "detail": "missing", "code": "x"},
            {"pointer": "/2", "detail": "odd", "code": "x"},
        ]
        told = {"accepted": 1, "ids": ["a"], "receipt": "r", "refused": [1, 2, 3], "errors": errors, "errors_total": 4}
        return httpx.Response(201, json=told)

    server = Server(some)
    await server.take(chunk("a", "b", "c", "d"))
    assert server.accepted == 1
    assert [(reject.line.number, reject.reason) for reject in server.rejects] == [
        (2, "/action: bad; /user_id: missing"),
        (3, "the entry: odd"),
        (4, "refused, as too many others beside it for each to be told why"),
    ]


async def test_where_none_is_good_all_are_rejected() -> None:
    errors = [{"pointer": f"/{index}/action", "detail": "bad", "code": "x"} for index in range(2)]
    server = Server(problem(422, errors=errors))
    await server.take(chunk("a", "b"))
    assert (server.accepted, [reject.line.number for reject in server.rejects]) == (0, [1, 2])


@pytest.mark.parametrize("status", [401, 403, 422])
async def test_what_waiting_does_not_cure_ends_the_import_at_once(status: int) -> None:
    server = Server(problem(status, detail="never"))
    with pytest.raises(ExceptionGroup) as raised:
        await server.take(chunk("a"))
    assert [str(failure) for failure in raised.value.exceptions] == ["No: never"]
    assert len(server.requests) == 1


async def test_no_more_is_read_than_is_in_flight() -> None:
    read = 0

    def reading() -> Iterator[Chunk]:
        nonlocal read
        for number in range(20):
            read += 1
            yield chunk(str(number))

    transport = httpx.MockTransport(lambda request: _count(request, lambda: read, seen))
    seen: list[int] = []
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await BulkSender(client, on_sent=lambda accepted, rejects: None).send_all(reading())
    answered = range(len(seen))
    assert all(ahead - done <= import_sending.IN_FLIGHT_MAX + 1 for ahead, done in zip(seen, answered, strict=True))


def _count(request: httpx.Request, read: Callable[[], int], seen: list[int]) -> httpx.Response:
    seen.append(read())
    return created(zstandard.decompress(request.content).decode().split("\n"))
