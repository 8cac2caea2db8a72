"""
A process of the kit alone, for tests of its life: `python -m tests.http.kit_server API_PORT [HEALTH_PORT]`.

It prints a line of JSON when it listens, and one for each thing that it closes. `GET /slow` is answered once a line
comes in on standard input; `POST /kill` makes a worker die.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.responses import Response

from audit_kit.auth.authenticator import opened_authenticator
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.clock import SystemClock
from audit_kit.logs import configure_logs
from audit_kit.part import Part, RawRoute, Worker
from audit_kit.policies import PUBLIC
from audit_kit.running import Address, AddressUnavailable, running
from tests.kit_world import ACME, Directory, tenant


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def life() -> Part:
    die = asyncio.Event()

    async def slow(_request: Request) -> Response:
        say(entered="slow")
        await asyncio.to_thread(sys.stdin.readline)
        say(answered="slow")
        return Response(b'"whole"', media_type="application/json")

    async def kill(_request: Request) -> Response:
        die.set()
        return Response(b"null", media_type="application/json")

    async def work(stop: asyncio.Event) -> None:
        ends = [asyncio.create_task(stop.wait()), asyncio.create_task(die.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if die.is_set():
            raise OSError("the disk is gone")
        ends[1].cancel()
        say(closed="worker")

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        try:
            yield
        finally:
            say(closed="part")

    return Part(
        name="life",
        routes=[
            RawRoute(method="GET", path="/slow", handler=slow, policy=PUBLIC, operation=None),
            RawRoute(method="POST", path="/kill", handler=kill, policy=PUBLIC, operation=None),
        ],
        workers=[Worker(name="work", run=work)],
        opened=opened,
    )


async def main(api_port: int, health_port: int | None) -> None:
    configure_logs(level="info", format="json")
    clock, directory = SystemClock(), Directory([tenant(ACME)])
    own = [DevIssuer(Ed25519PrivateKey.generate()).trusted(clock)]
    async with opened_authenticator(issuers=[], own=own, directory=directory, clock=clock) as authenticator:
        await running(
            [life()],
            authenticator=authenticator,
            directory=directory,
            address=Address("127.0.0.1", api_port),
            health=None if health_port is None else Address("127.0.0.1", health_port),
            on_ready=lambda address: say(url=address.url),
        )
    say(closed="ports")


if __name__ == "__main__":
    ports = [int(port) for port in sys.argv[1:]]
    try:
        uvloop.run(main(ports[0], ports[1] if len(ports) > 1 else None))
    except AddressUnavailable as exc:
        sys.exit(f"{exc}")
