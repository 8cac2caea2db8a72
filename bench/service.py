"""The service under load: its parts in processes of their own on a fresh database, and one tenant that may do all."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from audit_allinone.wiring import LOGINS
from audit_backends.key_store.file import FileKeyStore
from audit_backends.postgres_pool import postgres_pool
from audit_backends.tenant_directory.postgres import PostgresTenantDirectory, PostgresTenantRegistry
from audit_contracts.ports.tenant_directory import BURST_EVENTS_MAX, EVENTS_PER_S_MAX, TenantChange, TenantLimits
from audit_contracts.principal import Role, TenantId
from audit_kit.auth.dev_issuer import AUDIENCE, ISS, DevIssuer
from audit_kit.auth.issuers import ANY_TENANT
from audit_kit.clock import SystemClock
from audit_kit.keyring import Keyring
from bench.servers import BenchDatabase, BenchServer

TENANT = TenantId("bench")

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.005
_WAIT_TIMEOUT_S = 120.0


class ServerFailed(Exception):
    """A process of the service did not start, or did not end as it should."""


@dataclass(frozen=True)
class Serving:
    """One process of the service."""

    host: str
    port: int
    pid: int


@dataclass(frozen=True)
class Service:
    """A database, the processes that serve it, and what a client needs."""

    database: BenchDatabase
    owner: asyncpg.Connection[Any] = field(repr=False)
    key_store: FileKeyStore = field(repr=False)
    token: str = field(repr=False)
    processes: Sequence[Serving]

    def process(self, number: int = 0) -> Serving:
        """One of the processes, in the order in which they were asked for."""
        return self.processes[number]

    @asynccontextmanager
    async def keyring(self, part: str) -> AsyncIterator[tuple[asyncpg.Pool[Any], Keyring]]:
        """A part's own way to database and keys, by one connection, for what the bench does itself."""
        async with postgres_pool(self.database.url_for(part), part="bench", connections_max=1) as pool:
            keys = PostgresTenantDirectory(pool)
            yield pool, Keyring(tenant_keys=keys, key_store=self.key_store, clock=SystemClock())

    async def committed(self, count: int) -> float:
        """Wait until the tenant's ledger has `count` entries; when that was, by the monotonic clock."""
        until_s = time.monotonic() + _WAIT_TIMEOUT_S
        while await self.owner.fetchval("SELECT next_position FROM auditlog.heads WHERE tenant = $1", TENANT) < count:
            if time.monotonic() > until_s:
                raise ServerFailed(f"{count} entries are not in the ledger after {_WAIT_TIMEOUT_S:.0f} s")
            await asyncio.sleep(_POLL_S)
        return time.monotonic()


@asynccontextmanager
async def service(server: BenchServer, *processes: Sequence[str]) -> AsyncIterator[Service]:
    """
    The service on a fresh database.

    Args:
        processes: for each the parts that it runs.
    """
    folder = Path(tempfile.mkdtemp(prefix="auditlog-bench-"))
    try:
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(server.database())
            owner: asyncpg.Connection[Any] = await asyncpg.connect(database.owner_url)
            stack.push_async_callback(owner.close)
            key_store = FileKeyStore.create(folder / "root.key")
            await _new_tenant(database, key_store)
            issuer = DevIssuer.load(folder)
            (folder / "jwks.json").write_bytes(issuer.jwks())
            environment = _environment(database, folder)
            started = [
                await stack.enter_async_context(_serving(parts, environment, folder / f"{number}.log"))
                for number, parts in enumerate(processes)
            ]
            token = issuer.mint(
                tenant=TENANT, subject="bench", role=Role.ADMIN, now_s=SystemClock().now_us() // 1_000_000
            )
            yield Service(database, owner, key_store, token, started)
    finally:
        shutil.rmtree(folder)


async def _new_tenant(database: BenchDatabase, key_store: FileKeyStore) -> None:
    async with postgres_pool(database.url_for("admin"), part="bench") as pool:
        registry = PostgresTenantRegistry(pool, key_store=key_store)
        await registry.create_tenant(TENANT, name="Bench")
        # The limits are asked at each request and never reached.
        limits = TenantLimits(events_per_s=EVENTS_PER_S_MAX, burst_events=BURST_EVENTS_MAX)
        await registry.change_tenant(TENANT, TenantChange(limits=limits))


def _environment(database: BenchDatabase, folder: Path) -> Mapping[str, str]:
    issuer = {"iss": ISS, "audience": AUDIENCE, "jwks": (folder / "jwks.json").as_uri(), "tenants": [ANY_TENANT]}
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("AUDITLOG_")},
        **{f"AUDITLOG_{login.upper()}_DATABASE_URL": database.url_for(login) for login in LOGINS.values()},
        "AUDITLOG_KEY_STORE_URL": (folder / "root.key").as_uri(),
        "AUDITLOG_ISSUERS": msgspec.json.encode([issuer]).decode(),
    }


@asynccontextmanager
async def _serving(parts: Sequence[str], environment: Mapping[str, str], log: Path) -> AsyncIterator[Serving]:
    command = [sys.executable, "-m", "bench.serving", *parts]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            line = (await process.stdout.readline()).decode().split()
        if not line:
            raise ServerFailed(f"{' '.join(parts)} did not start:\n{_end_of(log)}")
        yield Serving(host=line[0], port=int(line[1]), pid=process.pid)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            status = await process.wait()
    if told := _end_of(log):
        raise ServerFailed(f"{' '.join(parts)} ended with {status}, and said:\n{told}")


def _end_of(log: Path) -> str:
    return log.read_text("utf-8", errors="replace")[-4_000:]
