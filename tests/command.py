"""The real `auditlog` command as a child process, as people and scripts call it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from audit_allinone.data_folder import DataFolder

AUDITLOG = Path(sys.executable).with_name("auditlog")
LAST_LINE = "Ctrl-C ends it"
STARTED_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command that ended has said."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """Standard output as lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, with these AUDITLOG_* variables and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUDITLOG_")}
    return {**kept, "COLUMNS": "200", **{f"AUDITLOG_{name.upper()}": value for name, value in variables.items()}}


async def auditlog(*arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Run the command to its end."""
    return await run(AUDITLOG, *arguments, cwd=cwd, env=env)


async def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Run any program to its end."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env or environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@dataclass
class Running:
    """A command that serves until it is told to stop."""

    process: asyncio.subprocess.Process
    cwd: Path
    errors: Path
    said: str = ""

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        return await self.process.wait()

    def erred(self) -> str:
        """What it said on standard error so far."""
        return self.errors.read_text()


@dataclass
class Up(Running):
    """A running `auditlog up`, ready."""

    data: Path = field(default_factory=Path)

    @property
    def profile(self) -> dict[str, str]:
        """The client's profile."""
        profile: dict[str, str] = json.loads((self.data / "profile.json").read_text())
        return profile

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.profile["url"]

    def env(self) -> dict[str, str]:
        """The environment of a client of this server."""
        return environment(profile=str(self.data / "profile.json"))

    def client(self, profile: str = "profile.json") -> httpx.AsyncClient:
        """An HTTP client with a profile's token; paths are relative to /api/v1."""
        kept = json.loads((self.data / profile).read_text())
        headers = {"Authorization": f"Bearer {kept['token']}"}
        return httpx.AsyncClient(base_url=f"{kept['url']}/api/v1", headers=headers, timeout=30)

    async def drained(self) -> None:
        """Return once the queue is empty, so that what was repeated was seen to be repeated."""
        connection = await asyncpg.connect(DataFolder(self.data).login_url("projector"))
        try:
            async with asyncio.timeout(60):
                while await connection.fetchval("SELECT count(*) FROM auditlog_queue.messages"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            await connection.close()

    async def auditlog(self, *arguments: str | Path) -> Ended:
        """Run a verb of the client with this server's profile."""
        return await auditlog(*arguments, cwd=self.cwd, env=self.env())


@asynccontextmanager
async def up(cwd: Path, *options: str, port: int = 0, env: Mapping[str, str] | None = None) -> AsyncIterator[Up]:
    """`auditlog up` on the folder `data` in `cwd`, ready; stopped at the end if it still runs."""
    data = cwd / "data"
    async with serving(
        "up", "--port", str(port), "--data-dir", str(data), *options, cwd=cwd, env=env, name="up"
    ) as running:
        lines = []
        assert running.process.stdout is not None
        async with asyncio.timeout(STARTED_WITHIN_S):
            async for line in running.process.stdout:
                lines.append(line.decode())
                if lines[-1].startswith(LAST_LINE):
                    break
            else:
                raise AssertionError(f"up ended with {await running.ended()}: {running.erred()}")
        yield Up(running.process, cwd, running.errors, "".join(lines), data)


@asynccontextmanager
async def serving(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, name: str
) -> AsyncIterator[Running]:
    """A command that serves; stopped at the end if it still runs."""
    errors = cwd / f"{name}.err"
    with errors.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            AUDITLOG, *arguments, cwd=cwd, env=env or environment(), stdout=asyncio.subprocess.PIPE, stderr=file
        )
    try:
        yield Running(process, cwd, errors)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def ready(url: str) -> None:
    """Return once what serves at `url` says that it is ready."""
    async with httpx.AsyncClient() as client, asyncio.timeout(STARTED_WITHIN_S):
        while True:
            try:
                if (await client.get(f"{url}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
