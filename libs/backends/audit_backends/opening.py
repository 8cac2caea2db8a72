"""
From a URL to a backend: the scheme decides which technology stands behind a port.

    event queue, ledger, tenant directory    postgres://  postgresql://
    key store                                file:///path/of/the/root/key
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NewType
from urllib.parse import unquote, urlsplit

import asyncpg

from audit_backends.event_queue.postgres import PostgresEventQueue
from audit_backends.key_store.file import FileKeyStore
from audit_backends.ledger.postgres import PostgresLedger
from audit_backends.ledger.postgres_reader import PostgresLedgerReader
from audit_backends.postgres_pool import postgres_pool
from audit_backends.tenant_directory.postgres import PostgresTenantDirectory, PostgresTenantRegistry
from audit_contracts.errors import AuditLogError
from audit_contracts.ports.event_queue import EventQueue
from audit_contracts.ports.key_store import KeyStore
from audit_contracts.ports.ledger import LedgerReader

Technology = NewType("Technology", str)

POSTGRES: Final = Technology("postgres")
FILE: Final = Technology("file")

_SCHEMES: Final[Mapping[str, Technology]] = {"postgres": POSTGRES, "postgresql": POSTGRES, "file": FILE}


class UnknownBackend(AuditLogError):
    """No backend of this port answers to the URL's scheme."""


class BackendUnreachable(AuditLogError):
    """A backend can't be opened: it isn't there, or refuses the login. Never holds the URL's password."""


class Backends:
    """
    What one part reaches, under that part's own login. What has one URL shares one pool of connections, but for
    the queue, which has another.

    Made by `opened_backends`, which closes what this has opened.
    """

    def __init__(self, part: str, stack: AsyncExitStack) -> None:
        self._part = part
        self._stack = stack
        self._pools: dict[tuple[str, bool], asyncpg.Pool[Any]] = {}

    async def event_queue(self, url: str) -> EventQueue:
        """The event queue at `url`. Raises UnknownBackend, BackendUnreachable, as all below."""
        _technology(url, "an event queue", POSTGRES)
        # A pool of its own: it sees to all tenants and is bound to none.
        queue = PostgresEventQueue(await self._pool(url, binds=False))
        self._stack.push_async_callback(queue.close)
        return queue

    async def ledger(self, url: str) -> PostgresLedger:
        """The ledger's write side: the ports `Ledger` and `DeadLetters`."""
        _technology(url, "a ledger", POSTGRES)
        return PostgresLedger(await self._pool(url))

    async def ledger_reader(self, url: str) -> LedgerReader:
        """The ledger's read side."""
        _technology(url, "a ledger", POSTGRES)
        return PostgresLedgerReader(await self._pool(url))

    async def tenant_directory(self, url: str) -> PostgresTenantDirectory:
        """The ports `TenantDirectory` and `TenantKeys`."""
        _technology(url, "a tenant directory", POSTGRES)
        return PostgresTenantDirectory(await self._pool(url))

    async def tenant_registry(self, url: str, key_store: KeyStore) -> PostgresTenantRegistry:
        """The port `TenantRegistry`, and the two of `tenant_directory`."""
        _technology(url, "a tenant directory", POSTGRES)
        return PostgresTenantRegistry(await self._pool(url), key_store=key_store)

    async def key_store(self, url: str) -> KeyStore:
        """The key store at `url`, whose root is there already."""
        _technology(url, "a key store", FILE)
        store = FileKeyStore.open(file_path(url))
        self._stack.push_async_callback(store.close)
        return store

    async def _pool(self, url: str, *, binds: bool = True) -> asyncpg.Pool[Any]:
        at = (url, binds)
        if at not in self._pools:
            try:
                self._pools[at] = await self._stack.enter_async_context(
                    postgres_pool(url, part=self._part, binds=binds)
                )
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
                parts = urlsplit(url)
                where = f"{parts.hostname or 'its socket'}{parts.path}"
                raise BackendUnreachable(
                    f"PostgreSQL at {where} as {parts.username}: {str(exc) or type(exc).__name__}"
                ) from exc
        return self._pools[at]


@asynccontextmanager
async def opened_backends(part: str) -> AsyncIterator[Backends]:
    """The backends of one part, opened as they are asked for and closed with the block, the last one first."""
    async with AsyncExitStack() as stack:
        yield Backends(part, stack)


def file_path(url: str) -> Path:
    """
    The path that a `file:///absolute/path` names.

    Raises:
        UnknownBackend: it names none of this machine.
    """
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/"):
        raise UnknownBackend("a file is named as file:///absolute/path")
    return Path(unquote(parts.path))


def _technology(url: str, port: str, *known: Technology) -> Technology:
    scheme = urlsplit(url).scheme
    technology = _SCHEMES.get(scheme)
    if technology not in known:
        schemes = ", ".join(f"{name}://" for name, of in _SCHEMES.items() if of in known)
        raise UnknownBackend(f"{scheme}:// is not {port}; it can be: {schemes}")
    return technology
