"""
The process that is measured: parts as `auditlog serve` runs them, and beside them the routes they are compared with.

    python -m bench.serving PART…      its address on standard output, once it listens

    POST /bench/noop       the same gate and body as a post of an entry, and no work
    POST /bench/insert     the same gate, and one INSERT a request: no masking, no sealing, no hashing, no queue
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import msgspec
import uvloop
from starlette.requests import Request
from starlette.responses import Response

from audit_allinone.wiring import LOGINS, Places, wired
from audit_backends.ledger.copy_rows import COLUMNS
from audit_backends.postgres_pool import postgres_pool
from audit_contracts.event import EntryIn
from audit_contracts.ids import uuid7
from audit_contracts.principal import Permission
from audit_contracts.times import to_us
from audit_kit.auth.authenticator import opened_authenticator
from audit_kit.bodies import read_body
from audit_kit.clock import SystemClock
from audit_kit.gate import principal_of
from audit_kit.logs import configure_logs
from audit_kit.part import Part, RawRoute
from audit_kit.policies import Access
from audit_kit.running import Address, running
from audit_kit.settings import Settings

NOOP_PATH: Final = "/bench/noop"
INSERT_PATH: Final = "/bench/insert"
INSERT_CONNECTIONS: Final = 16

_PRODUCERS: Final = Access(permission=Permission.LOGS_WRITE)
_JSON: Final = "application/json"
_BODY_BYTES_MAX: Final = 131_072
_INSERT: Final = "INSERT INTO auditlog.entries ({}) VALUES ({})".format(
    ", ".join(f'"{column}"' for column in COLUMNS), ", ".join(f"${number + 1}" for number in range(len(COLUMNS)))
)

_encode: Final = msgspec.json.Encoder().encode


async def noop(request: Request) -> Response:
    """Read the body, and answer."""
    principal_of(request)
    await read_body(request, bytes_max=_BODY_BYTES_MAX)
    return Response(b"{}", status_code=201, media_type=_JSON)


class Inserting:
    """What a plain service does: a row a request, committed before the answer."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._positions = itertools.count()
        self._decode = msgspec.json.Decoder(EntryIn).decode

    async def post(self, request: Request) -> Response:
        """Insert one entry, its body as it is where the ledger has the sealed record."""
        body = await read_body(request, bytes_max=_BODY_BYTES_MAX)
        entry = self._decode(body)
        now = datetime.now(UTC)
        entry_id = uuid7(to_us(now))
        values = {
            **{name: getattr(entry, name) for name in COLUMNS if name in EntryIn.__struct_fields__},
            "position": next(self._positions),
            "recorded_at": now,
            "received_at": now,
            "leaf_hash": body[:32],
            "core_salt": body[:16],
            "root": body[:32],
            "id": entry_id,
            "schema_version": 1,
            "tenant": principal_of(request).tenant,
            "submitted_by": principal_of(request).name,
            "flags": None,
            "sealed": body,
        }
        await self._pool.execute(_INSERT, *(values[column] for column in COLUMNS))
        return Response(_encode({"id": str(entry_id)}), status_code=201, media_type=_JSON)


async def serve(names: Sequence[str]) -> None:
    """Serve until SIGTERM."""
    settings = Settings.read()
    configure_logs(level="warning", format="console")
    clock = SystemClock()
    places = Places(
        databases={login: settings.secret(f"{login}_database_url") for login in LOGINS.values()},
        key_store=settings.secret("key_store_url"),
    )
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(wired(names, places=places, settings=settings, clock=clock))
        authenticator = await stack.enter_async_context(
            opened_authenticator(issuers=settings.issuers, directory=opened.directory, clock=clock)
        )
        # The login that may write to the ledger's table.
        pool = await stack.enter_async_context(
            postgres_pool(places.databases["projector"], part="bench", connections_max=INSERT_CONNECTIONS)
        )
        beside = Part(
            name="bench",
            routes=[
                RawRoute(
                    method="POST", path=path, handler=handler, policy=_PRODUCERS, operation=None, consumes=(_JSON,)
                )
                for path, handler in ((NOOP_PATH, noop), (INSERT_PATH, Inserting(pool).post))
            ],
        )
        await running(
            [*opened.parts, beside],
            authenticator=authenticator,
            directory=opened.directory,
            address=Address("127.0.0.1", 0),
            health=Address("127.0.0.1", 0),
            on_refused=opened.on_refused,
            on_ready=_tell,
        )


def _tell(address: Address) -> None:
    os.write(sys.stdout.fileno(), f"{address.host} {address.port}\n".encode())


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1:]))
