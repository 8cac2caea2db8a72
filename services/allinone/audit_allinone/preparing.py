"""What a database needs before parts run on it: the schema, the operator, a mark where it is one of development."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from audit_admin.operator import bootstrap_operator
from audit_backends.key_store.file import FileKeyStore
from audit_backends.opening import file_path, opened_backends
from audit_backends.schema.migrations import PARTS
from audit_backends.tenant_directory.postgres import MODE_DEVELOPMENT, MODE_FACT
from audit_contracts.ports.clock import Clock

CONNECT_TIMEOUT_S: Final = 10


async def make_root_key(owner_url: str, key_store_url: str) -> None:
    """
    Make the root key of a migrated database, if it is a file that isn't there yet and nothing was sealed under it.

    Raises:
        KeyFileUnusable: the file is missing although something was sealed, or others may read it.
    """
    if key_store_url.startswith("file:") and not await _value(
        owner_url, "SELECT EXISTS (SELECT FROM auditlog.tenants)"
    ):
        FileKeyStore.create(file_path(key_store_url))


async def ensure_operator(owner_url: str, key_store_url: str, *, clock: Clock) -> str | None:
    """Make the operator's tenant if it is missing, and answer the key that enters it; of two at once, one gets it."""
    async with opened_backends("owner") as backends:
        key_store = await backends.key_store(key_store_url)
        return await bootstrap_operator(await backends.tenant_registry(owner_url, key_store), clock=clock)


async def mark_development(owner_url: str) -> None:
    """Note in a database that `up` made itself that it is one of development."""
    await _value(
        owner_url,
        "INSERT INTO auditlog.facts VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
        MODE_FACT,
        MODE_DEVELOPMENT,
    )


async def take_back_deliveries(owner_url: str) -> None:
    """
    Make everything in the queue visible at once.

    Only for a server that was just started: nobody is left who could have a message in hand, and what a killed process
    had need not wait until its time runs out.
    """
    await _value(
        owner_url,
        "UPDATE auditlog_queue.messages SET visible_at = auditlog.now(), receipt = NULL WHERE receipt IS NOT NULL",
    )


async def missing_logins(owner_url: str) -> frozenset[str]:
    """The parts whose logins the server doesn't have yet."""
    found = await _value(owner_url, "SELECT array_agg(rolname::text) FROM pg_roles WHERE rolname LIKE 'auditlog\\_%'")
    return frozenset(part for part in PARTS if f"auditlog_{part}" not in (found or ()))


async def _value(owner_url: str, statement: str, *arguments: object) -> Any:
    connection = await asyncpg.connect(owner_url, timeout=CONNECT_TIMEOUT_S)
    try:
        return await connection.fetchval(statement, *arguments)
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)
