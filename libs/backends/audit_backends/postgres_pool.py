"""One way to open a pool on PostgreSQL: every part's, with its own login."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from audit_backends.schema import migrations
from audit_contracts.errors import AuditLogError

CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 30.0


class UnsafeDatabase(AuditLogError):
    """The server would acknowledge what it can lose."""


@asynccontextmanager
async def postgres_pool(
    url: str, *, part: str, connections_max: int = 8, binds: bool = True
) -> AsyncIterator[asyncpg.Pool[Any]]:
    """
    A pool for one part, checked and closed with the block.

    Args:
        binds: its connections are bound to tenants, so each is reset after every use, whatever was left on it. That
            costs a round trip, which a pool that never binds is spared.

    Raises:
        SchemaTooOld: `auditlog migrate` has not been run.
        UnsafeDatabase: fsync, full_page_writes or synchronous_commit is off.
        OSError, asyncpg.PostgresError: the server can't be reached, or refuses the login.
    """
    async with asyncpg.create_pool(
        url,
        min_size=1,
        max_size=connections_max,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        max_inactive_connection_lifetime=300,
        server_settings={
            "application_name": f"auditlog-{part}",
            "timezone": "UTC",
            "search_path": "pg_catalog",
            "statement_timeout": "30000",
            "idle_in_transaction_session_timeout": "30000",
            "jit": "off",
        },
        reset=None if binds else _leave_as_it_is,
    ) as pool:
        async with pool.acquire() as connection:
            await migrations.check(connection)
            await _check_durable(connection)
        yield pool


async def _leave_as_it_is(_: object) -> None:
    """For a session that has no state of its own. The driver has rolled back what was left open before."""


async def _check_durable(connection: PoolConnectionProxy[Any]) -> None:
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if await connection.fetchval("SELECT current_setting($1)", name) == "off":
            raise UnsafeDatabase(f"PostgreSQL runs with {name} = off and would lose what was acknowledged; turn it on")
