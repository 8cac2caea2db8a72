"""A process of parts: what it opens, serves, drains and closes, and in which order."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx


class Process:
    """The kit's process with what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def said(self) -> dict[str, Any]:
        """The next line on its standard output."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, await self.errors()
        said: dict[str, Any] = json.loads(line)
        return said

    async def logged(self, event: str) -> None:
        """Return once it logs `event`."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            if line.startswith(b"{") and json.loads(line)["event"] == event:
                return
        raise AssertionError(f"{event} was never logged")

    async def errors(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    def let_slow_request_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")


@asynccontextmanager
async def started(*ports: int) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.http.kit_server", *map(str, ports)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


async def test_a_signal_drains_requests_then_workers_then_what_was_opened_and_exits_0() -> None:
    async with started(0) as process, httpx.AsyncClient() as client:
        url = (await process.said())["url"]
        request = asyncio.create_task(client.get(f"{url}/slow", timeout=60))
        assert await process.said() == {"entered": "slow"}
        process.process.send_signal(signal.SIGTERM)
        await process.logged("draining")
        process.let_slow_request_go()
        assert (await request).json() == "whole"
        assert await process.said() == {"answered": "slow"}
        assert [(await process.said())["closed"] for _ in range(3)] == ["worker", "part", "ports"]
        assert await process.process.wait() == 0


async def test_ctrl_c_ends_it_like_a_signal() -> None:
    async with started(0) as process:
        await process.said()
        process.process.send_signal(signal.SIGINT)
        assert [(await process.said())["closed"] for _ in range(3)] == ["worker", "part", "ports"]
        assert await process.process.wait() == 0


async def test_a_second_signal_cuts_the_drain_short() -> None:
    async with started(0) as process, httpx.AsyncClient() as client:
        url = (await process.said())["url"]
        request = asyncio.create_task(client.get(f"{url}/slow", timeout=60))
        await process.said()
        process.process.send_signal(signal.SIGINT)
        await process.logged("draining")
        process.process.send_signal(signal.SIGINT)
        assert (await process.said())["closed"] == "worker"
        request.cancel()


async def test_a_dead_worker_ends_the_process_with_a_failure_after_answering() -> None:
    async with started(0) as process, httpx.AsyncClient() as client:
        url = (await process.said())["url"]
        assert (await client.post(f"{url}/kill")).status_code == 200
        assert await process.said() == {"closed": "part"}
        assert await process.process.wait() != 0
        errors = await process.errors()
        assert "OSError: the disk is gone" in errors


async def test_served_alone_health_has_a_port_of_its_own() -> None:
    health_port = free_port()
    async with started(0, health_port) as process, httpx.AsyncClient() as client:
        url = (await process.said())["url"]
        health = f"http://127.0.0.1:{health_port}"
        assert (await client.get(f"{health}/readyz")).json() == {"status": "ok", "checks": {}}
        assert "auditlog_http_requests_total" in (await client.get(f"{health}/metrics")).text
        assert (await client.get(f"{health}/slow")).status_code == 404
        assert (await client.get(f"{url}/livez")).status_code == 404
        assert (await client.get(f"{url}/docs")).status_code == 200


async def test_served_together_everything_has_one_port() -> None:
    async with started(0) as process, httpx.AsyncClient() as client:
        url = (await process.said())["url"]
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert (await client.get(url + path)).status_code == 200, path


async def test_while_it_drains_it_says_that_it_is_not_ready() -> None:
    health_port = free_port()
    async with started(0, health_port) as process, httpx.AsyncClient() as client:
        url = (await process.said())["url"]
        request = asyncio.create_task(client.get(f"{url}/slow", timeout=60))
        await process.said()
        process.process.send_signal(signal.SIGTERM)
        await process.logged("draining")
        answer = await client.get(f"http://127.0.0.1:{health_port}/readyz")
        process.let_slow_request_go()
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
        assert (await request).status_code == 200


async def test_a_port_in_use_is_one_clear_line_and_opens_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with started(port) as process:
            assert await process.process.wait() == 1
            assert await process.errors() == f"can't listen on 127.0.0.1:{port}: Address already in use\n"
            assert process.process.stdout is not None
            assert await process.process.stdout.read() == b""
