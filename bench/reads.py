"""Reads over HTTP beside the same prepared SQL, on a hundred days of entries, and on ten times as many."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote
from uuid import UUID

from audit_contracts.query import Filter
from audit_ingest.routes import SINGLE_PATH as LOGS_PATH
from bench.copying import Wrong
from bench.end_to_end import where_of
from bench.harness import Ratio, Result, Size, Way, at_most, in_turn, percentile
from bench.history import DAYS, fill
from bench.load import LoadProcess, Where, get, token_of_page
from bench.replay import Read, Replayer
from bench.servers import BenchServer
from bench.service import Service, service
from bench.workload import USERS, user

DEEP_PAGE: Final = 1_000

_KINDS: Final = ("list", "filter", "point")


@dataclass
class _Percentiles:
    """Of each round, in milliseconds."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def add(self, seconds: Sequence[float]) -> float:
        """Take a round; its median."""
        self.p50.append(percentile(seconds, 0.50) * 1_000)
        self.p99.append(percentile(seconds, 0.99) * 1_000)
        return self.p50[-1]


class _Ledger:
    """A filled ledger, and both ways to read it."""

    def __init__(self, running: Service, load: LoadProcess, replayer: Replayer, ids: Sequence[UUID], asks: int) -> None:
        self._running = running
        self._load = load
        self._replayer = replayer
        self._ids = ids
        self._asks = asks
        self._chance = random.Random(1)
        self._asked: tuple[list[str], list[Read]] = ([], [])
        self._shown: tuple[int, int] | None = None

    @property
    def where(self) -> Where:
        """Where its HTTP is."""
        return where_of(self._running)

    def ways(self, kind: str, http: _Percentiles, sql: _Percentiles) -> tuple[Way, Way]:
        """Read over HTTP, and by SQL: what the other way of the round has read, or something new."""
        turn = 0

        async def next_turn() -> None:
            nonlocal turn
            if not turn % 2:
                self._asked = await self._questions(kind)
                self._shown = None
                await self._running.owner.execute("TRUNCATE auditlog_queue.messages")
            turn += 1

        async def over_http() -> float:
            await next_turn()
            answered = await self._load.run(get, self.where, self._asked[0])
            self._check(answered.entries, answered.ids)
            return http.add(answered.each_s())

        async def by_sql() -> float:
            await next_turn()
            seconds: list[float] = []
            found: list[UUID] = []
            for read in self._asked[1]:
                started = time.perf_counter()
                found += await self._replayer.replay(read)
                seconds.append(time.perf_counter() - started)
            self._check(len(found), sum(one.int for one in found) % 2**128)
            return sql.add(seconds)

        return over_http, by_sql

    async def _questions(self, kind: str) -> tuple[list[str], list[Read]]:
        """The same questions as paths and as statements."""
        if kind == "list":
            return [LOGS_PATH] * self._asks, [await self._replayer.page(Filter())] * self._asks
        if kind == "filter":
            users = [user(number % USERS) for number in range(self._asks)]
            reads = {name: await self._replayer.page(Filter(equal={"user_id": (name,)})) for name in set(users)}
            return [f"{LOGS_PATH}?user_id={quote(name)}" for name in users], [reads[name] for name in users]
        ids = self._chance.sample(self._ids, self._asks)
        return [f"{LOGS_PATH}/{one}" for one in ids], [await self._replayer.point(one) for one in ids]

    def _check(self, entries: int, ids: int) -> None:
        """That both ways of a round have found the same, and something."""
        if not entries or self._shown not in (None, (entries, ids)):
            raise Wrong(f"one way shows {entries} entries, the other {self._shown}")
        self._shown = (entries, ids)


async def reads(server: BenchServer, size: Size, load: LoadProcess) -> Sequence[Result]:
    """Lists, filtered lists and single entries: how much HTTP adds, and how little the log's length and depth do."""
    few, many = size.of(100_000, 20_000), size.of(1_000_000, 100_000)
    asks = size.of(1_000, 100)
    results: list[Result] = []
    over_http: dict[tuple[str, int], _Percentiles] = {}
    async with AsyncExitStack() as stack:
        ledgers = {count: await _filled(stack, server, load, count, asks) for count in (few, many)}
        for kind in _KINDS:
            ways: list[Way] = []
            by_sql = {count: _Percentiles() for count in ledgers}
            for count, ledger in ledgers.items():
                over_http[kind, count] = _Percentiles()
                ways += ledger.ways(kind, over_http[kind, count], by_sql[count])
            await in_turn(f"{kind}, HTTP : SQL, {few:,} and {many:,}", size.rounds, *ways)
            for count in ledgers:
                http, sql = over_http[kind, count], by_sql[count]
                name = f"{kind}, {count:,} rows over {DAYS} days"
                results.append(Ratio(f"{name}, p50 ÷ SQL and opening", "ms", at_most(3), http.p50, sql.p50))
                results.append(Ratio(f"{name}, p99 ÷ SQL and opening", "ms", at_most(3), http.p99, sql.p99))
        for kind in _KINDS:
            name = f"{kind} over HTTP, p50, {many:,} rows ÷ {few:,}"
            results.append(Ratio(name, "ms", at_most(1.3), over_http[kind, many].p50, over_http[kind, few].p50))
        results.append(await _deep_page(ledgers[many], load, size, asks, many))
    return results


async def _filled(stack: AsyncExitStack, server: BenchServer, load: LoadProcess, count: int, asks: int) -> _Ledger:
    running = await stack.enter_async_context(service(server, ["query"]))
    await fill(running, count)
    pool, keyring = await stack.enter_async_context(running.keyring("query"))
    ids = [row["id"] for row in await running.owner.fetch("SELECT id FROM auditlog.entries")]
    if len(ids) != count:
        raise Wrong(f"{len(ids)} rows of {count}")
    return _Ledger(running, load, Replayer(pool, keyring), ids, asks)


async def _deep_page(ledger: _Ledger, load: LoadProcess, size: Size, asks: int, count: int) -> Ratio:
    token = await load.run(token_of_page, ledger.where, LOGS_PATH, DEEP_PAGE)

    def page(path: str) -> Callable[[], Awaitable[float]]:
        async def read() -> float:
            answered = await load.run(get, ledger.where, [path] * asks)
            if answered.entries != 50 * asks:
                raise Wrong(f"{answered.entries} entries on {asks} pages")
            return percentile(answered.each_s(), 0.5) * 1_000

        return read

    deep, first = await in_turn(
        f"page {DEEP_PAGE:,} : page 1", size.rounds, page(f"{LOGS_PATH}?next_token={token}"), page(LOGS_PATH)
    )
    return Ratio(f"page {DEEP_PAGE:,} ÷ page 1, p50, {count:,} rows", "ms", at_most(1.3), deep, first)
