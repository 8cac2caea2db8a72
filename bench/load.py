"""
The load, made in a process of its own.

    closed loop    each of the connections sends its next request when it has its answer: how much the service can do
    open loop      requests leave at fixed times whatever the answers do: what a client waits, counted from its slot
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
import msgspec
import uvloop

from audit_contracts.principal import TenantId
from bench.client import BadAnswer, Connection, connect, request
from bench.workload import bodies

Done = TypeVar("Done")

CONNECTIONS: Final = 64
TIMEOUT_S: Final = 120.0
NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json"
LOOK_S: Final = 0.002
"""Between two looks at what is visible."""

_LOOK: Final = """
SELECT position, id FROM auditlog_query.entries
WHERE position >= $1 AND recorded_at >= $2 ORDER BY position LIMIT 5000
"""


class _Answer(msgspec.Struct):
    """What the client reads of an answer: to a post, to a bulk, to a read of one entry, to a list."""

    id: UUID | None = None
    ids: list[UUID] = []
    results: list[_Answer] = []
    next_token: str | None = None

    def all_ids(self) -> list[UUID]:
        """The ids that it tells."""
        if self.id is not None:
            return [self.id]
        return self.ids or [one for result in self.results for one in result.all_ids()]


_answer: Final = msgspec.json.Decoder(_Answer).decode


@dataclass(frozen=True)
class Where:
    """A server, and who asks it."""

    host: str
    port: int
    token: str = field(repr=False)


@dataclass(frozen=True)
class Posts:
    """The first `count` entries of the workload, one a request or in bulks of `entries_each`, to `path`."""

    path: str
    count: int
    entries_each: int | None = None

    def requests(self, token: str) -> list[bytes]:
        """As they go over the wire."""
        content_type = JSON if self.entries_each is None else NDJSON
        return [
            request("POST", self.path, token, body=body, content_type=content_type)
            for body in bodies(self.count, self.entries_each)
        ]


@dataclass(frozen=True)
class Answered:
    """What a run came to. Moments are of the monotonic clock, which all processes of a machine share."""

    moments_s: Sequence[float] = field(repr=False)
    """Of the start, and of each answer."""
    entries: int
    """Entries told of in the answers."""
    ids: int
    """The sum of their ids, modulo 2**128."""

    @property
    def began_s(self) -> float:
        """When the first request went out."""
        return self.moments_s[0]

    @property
    def took_s(self) -> float:
        """From the first request to the last answer."""
        return self.moments_s[-1] - self.moments_s[0]

    def each_s(self) -> list[float]:
        """What each request took, where one followed the other."""
        return [after - before for before, after in zip(self.moments_s, self.moments_s[1:], strict=False)]


def post(where: Where, posts: Posts) -> Answered:
    """Send posts in a closed loop over 64 connections; each has to be answered 201."""
    return _answered(*_run(_closed(where, posts.requests(where.token), CONNECTIONS, expected=201)))


def get(where: Where, paths: Sequence[str]) -> Answered:
    """Read one path after the other over one connection. Each has to be answered 200."""
    requests = [request("GET", path, where.token) for path in paths]
    return _answered(*_run(_closed(where, requests, 1, expected=200)))


def token_of_page(where: Where, path: str, page: int) -> str:
    """The token that leads to a page (2 or more) of a list, found by reading all pages before it."""
    token: str | None = None
    for _ in range(page - 1):
        at = path if token is None else f"{path}?next_token={token}"
        (body,), _moments = _run(_closed(where, [request("GET", at, where.token)], 1, expected=200))
        token = _answer(body).next_token
        if token is None:
            raise BadAnswer(f"the list ends before page {page}")
    assert token is not None
    return token


def visible_after(where: Where, database_url: str, tenant: TenantId, posts: Posts, per_s: float) -> list[float]:
    """
    Send posts in an open loop, `per_s` a second: for each, seconds from its slot until a reader finds its entry.

    Args:
        database_url: of query's login, which sees what auditors see.
    """
    requests = posts.requests(where.token)

    async def open_loop() -> list[float]:
        return await _OpenLoop(requests, per_s).run(where, database_url, tenant)

    return _run(open_loop())


class LoadProcess:
    """The other process."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    async def run(self, work: Callable[..., Done], *arguments: object) -> Done:
        """Do one of the above there."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def close(self) -> None:
        """End it."""
        self._pool.shutdown()


@contextmanager
def load_process() -> Iterator[LoadProcess]:
    """A process for the load, ended with the block."""
    process = LoadProcess()
    try:
        yield process
    finally:
        process.close()


def _run(work: Coroutine[Any, Any, Done]) -> Done:
    async def bounded() -> Done:
        async with asyncio.timeout(TIMEOUT_S):
            return await work

    gc.collect()
    gc.disable()
    try:
        return uvloop.run(bounded())
    finally:
        gc.enable()


def _answered(answers: Sequence[bytes], moments: Sequence[float]) -> Answered:
    ids = [one for body in answers for one in _answer(body).all_ids()]
    return Answered(moments, len(ids), sum(one.int for one in ids) % 2**128)


async def _closed(
    where: Where, requests: Iterable[bytes], connections: int, *, expected: int
) -> tuple[list[bytes], list[float]]:
    """All answers as they came, and the moments: of the start, and of each answer."""
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = iter(requests)
    flying = 0
    answers: list[bytes] = []
    moments: list[float] = []

    def on_answer(connection: Connection, status: int, body: bytes) -> None:
        nonlocal flying
        moments.append(time.monotonic())
        if status != expected:
            on_lost(BadAnswer(f"{status}: {body[:500]!r}"))
            return
        answers.append(body)
        following = next(left, None)
        if following is not None:
            connection.send(following)
            return
        flying -= 1
        if not flying and not finished.done():
            finished.set_result(None)

    def on_lost(exc: BaseException) -> None:
        if not finished.done():
            finished.set_exception(exc)

    async with _connected(where, connections, on_answer, on_lost) as opened:
        moments.append(time.monotonic())
        for connection in opened:
            following = next(left, None)
            if following is not None:
                flying += 1
                connection.send(following)
        await finished
    return answers, moments


class _OpenLoop:
    """Posts that leave at their slots, as far as connections are free, and the look-out for their entries."""

    def __init__(self, requests: Sequence[bytes], per_s: float) -> None:
        self._requests = requests
        self._per_s = per_s
        self._began_s = 0.0
        self._waiting: deque[int] = deque()
        self._free: list[Connection] = []
        self._slot_of: dict[UUID, float] = {}
        self._seen: dict[UUID, float] = {}
        self._looking = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, where: Where, database_url: str, tenant: TenantId) -> list[float]:
        """Send all, see all: seconds from slot to sight of each."""
        async with _connected(where, CONNECTIONS, self._on_answer, self._on_lost) as opened:
            self._free.extend(opened)
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch(database_url, tenant))
                tasks.create_task(self._send())
                await asyncio.wait({watching, self._failed}, return_when=asyncio.FIRST_COMPLETED)
                if self._failed.done():
                    self._failed.result()
        return [self._seen[entry_id] - slot_s for entry_id, slot_s in self._slot_of.items()]

    async def _send(self) -> None:
        await self._looking.wait()
        self._began_s = time.monotonic()
        for number in range(len(self._requests)):
            early_s = self._slot_s(number) - time.monotonic()
            if early_s > 0:
                await asyncio.sleep(early_s)
            self._waiting.append(number)
            self._depart()

    def _slot_s(self, number: int) -> float:
        return self._began_s + number / self._per_s

    def _depart(self) -> None:
        while self._waiting and self._free:
            connection = self._free.pop()
            connection.tag = self._waiting.popleft()
            connection.send(self._requests[connection.tag])

    async def _watch(self, database_url: str, tenant: TenantId) -> None:
        reader: asyncpg.Connection[Any] = await asyncpg.connect(database_url)
        try:
            await reader.execute("SELECT set_config('auditlog.tenant', $1, false)", tenant)
            row = await reader.fetchrow("SELECT next_position, auditlog.now() FROM auditlog_query.heads")
            assert row is not None
            position, since = row
            self._looking.set()
            # An entry may be seen before its post is answered.
            while min(len(self._seen), len(self._slot_of)) < len(self._requests):
                rows = await reader.fetch(_LOOK, position, since)
                now_s = time.monotonic()
                self._seen.update((row["id"], now_s) for row in rows)
                if rows:
                    position = rows[-1]["position"] + 1
                await asyncio.sleep(LOOK_S)
        finally:
            await reader.close()

    def _on_answer(self, connection: Connection, status: int, body: bytes) -> None:
        if status != 201:
            self._on_lost(BadAnswer(f"{status}: {body[:500]!r}"))
            return
        (entry_id,) = _answer(body).all_ids()
        self._slot_of[entry_id] = self._slot_s(connection.tag)
        self._free.append(connection)
        self._depart()

    def _on_lost(self, exc: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(exc)


@asynccontextmanager
async def _connected(
    where: Where,
    count: int,
    on_answer: Callable[[Connection, int, bytes], None],
    on_lost: Callable[[BaseException], None],
) -> AsyncIterator[list[Connection]]:
    opened = [await connect(where.host, where.port, on_answer, on_lost) for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()
