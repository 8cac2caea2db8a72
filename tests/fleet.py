"""The parts as processes of their own on one database, to be killed and started, and a client that never gives up."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx

from audit_admin.api_key_making import make_api_key
from audit_allinone.wiring import LOGINS
from audit_backends.key_store.file import FileKeyStore
from audit_backends.postgres_pool import postgres_pool
from audit_backends.tenant_directory.postgres import PostgresTenantRegistry
from audit_contracts.principal import Role, TenantId
from audit_kit.clock import SystemClock
from tests.command import Running, environment, free_port, ready, serving
from tests.pipeline import Urls, recomputed_leaf_hash

RETRY_S_MAX: Final = 0.2
"""A client that obeys Retry-After would make these tests wait for nothing."""


class Fleet:
    """Processes by the name of their one part."""

    def __init__(self, folder: Path, database: Urls) -> None:
        self._folder = folder
        self._database = database
        self._stacks: dict[str, AsyncExitStack] = {}
        self._running: dict[str, Running] = {}
        self._ports = {part: (free_port(), free_port()) for part in LOGINS}

    def url(self, part: str) -> str:
        """Where a part's API is, whether it runs or not."""
        return f"http://127.0.0.1:{self._ports[part][0]}/api/v1"

    async def start(self, *parts: str) -> None:
        """Start processes, and return once they are ready."""
        for part in parts:
            port, health_port = self._ports[part]
            login = LOGINS[part]
            env = environment(
                key_store_url=(self._folder / "root-key").as_uri(),
                **{f"{login}_database_url": self._database.url_for(login)},
            )
            stack = self._stacks[part] = AsyncExitStack()
            options = ("--port", f"{port}", "--health-port", f"{health_port}")
            self._running[part] = await stack.enter_async_context(
                serving("serve", part, *options, cwd=self._folder, env=env, name=part)
            )
        for part in parts:
            await ready(f"http://127.0.0.1:{self._ports[part][1]}")

    async def kill(self, *parts: str) -> None:
        """End processes with no chance to say good-bye."""
        for part in parts:
            self._running[part].stop(signal.SIGKILL)
        for part in parts:
            assert await self._running[part].ended() == -signal.SIGKILL
            await self._stacks.pop(part).aclose()

    async def stop(self) -> None:
        """Stop what runs as SIGTERM does; each process ends well, and none has complained of what it didn't expect."""
        for part in self._stacks:
            self._running[part].stop()
        ended = {part: await self._running[part].ended() for part in self._stacks}
        assert set(ended.values()) == {0}, (ended, self.errors())
        assert "Traceback" not in self.errors(), self.errors()
        await self.close()

    async def close(self) -> None:
        """End whatever still runs."""
        for part in list(self._stacks):
            await self._stacks.pop(part).aclose()

    def errors(self) -> str:
        """What all processes have said."""
        return "".join(path.read_text() for path in sorted(self._folder.glob("*.err")))


@asynccontextmanager
async def open_fleet(folder: Path, database: Urls) -> AsyncIterator[Fleet]:
    """A fleet with its root key, nothing started; ended with the block."""
    FileKeyStore.create(folder / "root-key")
    fleet = Fleet(folder, database)
    try:
        yield fleet
    finally:
        await fleet.close()


async def new_tenant(folder: Path, database: Urls, name: str) -> tuple[TenantId, str]:
    """A tenant, and an API key of its admin."""
    key_store = FileKeyStore.open(folder / "root-key")
    made = make_api_key(TenantId(name), name="test", role=Role.ADMIN, created_by="test", clock=SystemClock())
    async with postgres_pool(database.url_for("admin"), part="admin", connections_max=2) as pool:
        await PostgresTenantRegistry(pool, key_store=key_store).create_tenant(
            TenantId(name), name=name, first_key=made.kept
        )
    return TenantId(name), made.text


@dataclass
class StubbornProducer:
    """
    Sends entries as a careful client does: each request with an Idempotency-Key or ids of its own, and again, as it
    was, until it is acknowledged.
    """

    url: str
    key: str
    chance: random.Random
    acknowledged: list[str] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    """Statuses of answers that were not an acknowledgement."""
    lost: int = 0
    """Requests that got no answer."""
    _over: bool = False

    async def run(self, clients: int) -> None:
        """Send from so many clients at once until told that it is over and what was begun is acknowledged."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with (
            httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, trust_env=False) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(clients):
                tasks.create_task(self._one_client(http))

    def end(self) -> None:
        """Begin nothing more."""
        self._over = True

    async def until_acknowledged(self, count: int) -> None:
        """Return once so many more entries are acknowledged."""
        enough = len(self.acknowledged) + count
        await self._until(lambda: len(self.acknowledged) >= enough)

    async def until_refused(self, count: int) -> None:
        """Return once so many more requests were answered, but not acknowledged."""
        enough = len(self.refusals) + count
        await self._until(lambda: len(self.refusals) >= enough)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not is_so():  # noqa: ASYNC110 - many clients work on it
                await asyncio.sleep(0.005)

    async def _one_client(self, http: httpx.AsyncClient) -> None:
        while not self._over:
            if self.chance.random() < 0.5:
                key = {"Idempotency-Key": secrets.token_hex(8)}
                answer = await self._insist(http, "/logs", json=self._entry(), headers=key)
                self.acknowledged.append(answer["id"])
            else:
                many = [self._entry(id=str(uuid.uuid4())) for _ in range(self.chance.randint(1, 40))]
                answer = await self._insist(http, "/logs/bulk", json=many)
                assert answer["ids"] == [one["id"] for one in many]
                self.acknowledged += answer["ids"]

    async def _insist(self, http: httpx.AsyncClient, path: str, **request: Any) -> dict[str, Any]:
        while True:
            try:
                answer = await http.post(path, **request)
            except httpx.TransportError:
                self.lost += 1
                await asyncio.sleep(RETRY_S_MAX / 4)
                continue
            if answer.status_code == 201:
                found: dict[str, Any] = answer.json()
                return found
            self.refusals.append(answer.status_code)
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            await asyncio.sleep(min(RETRY_S_MAX, int(answer.headers["retry-after"])))

    def _entry(self, **fields: Any) -> dict[str, Any]:
        user = f"u{self.chance.randrange(9)}"
        text = "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=self.chance.randint(0, 400)))
        return {
            "user_id": user,
            "action": "UPDATE",
            "resource_type": "invoice",
            "resource_id": "7",
            "details": text,
            **fields,
        }


async def drained(projector_url: str, *, timeout_s: float = 60) -> None:
    """Let the minute pass for which a killed projector's messages are hidden, and return once the queue is empty."""
    projector = await asyncpg.connect(projector_url)
    try:
        await projector.execute("UPDATE auditlog_queue.messages SET visible_at = auditlog.now()")
        async with asyncio.timeout(timeout_s):
            while await projector.fetchval("SELECT count(*) FROM auditlog_queue.messages"):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.02)
    finally:
        await projector.close()


async def verify(projector_url: str, tenant: TenantId, acknowledged: Iterable[str]) -> None:
    """
    That the tenant's ledger holds each of these entries once and no other entry of a client, at positions without
    gaps, each under the leaf hash that follows from its row, in spans that tell of all of them.
    """
    projector = await asyncpg.connect(projector_url)
    try:
        rows = await projector.fetch("SELECT * FROM auditlog.entries WHERE tenant = $1 ORDER BY position", tenant)
        head = await projector.fetchrow("SELECT log_id, next_position FROM auditlog.heads WHERE tenant = $1", tenant)
        spans = await projector.fetchval(
            "SELECT sum(last_position - first_position + 1)::bigint FROM auditlog.spans WHERE tenant = $1", tenant
        )
        dead = await projector.fetchval("SELECT count(*) FROM auditlog.dead_letters WHERE tenant = $1", tenant)
    finally:
        await projector.close()
    assert head is not None
    assert sorted(str(row["id"]) for row in rows if row["source"] != "auditlog") == sorted(acknowledged)
    assert [row["position"] for row in rows] == list(range(len(rows)))
    assert (head["next_position"], spans, dead) == (len(rows), len(rows), 0)
    assert [row["recorded_at"] for row in rows] == sorted(row["recorded_at"] for row in rows)
    assert all(row["leaf_hash"] == recomputed_leaf_hash(head["log_id"], row) for row in rows)
