"""The real PostgreSQL that everything is measured on, with the product's own settings."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from audit_allinone.embedded_postgres import EmbeddedPostgres, embedded_postgres
from audit_backends.schema import migrations


@dataclass(frozen=True)
class BenchDatabase:
    """A migrated database of its own."""

    name: str
    server: EmbeddedPostgres = field(repr=False)
    passwords: dict[str, str] = field(repr=False)

    @property
    def owner_url(self) -> str:
        """The owner's URL."""
        return self.server.owner_url.replace("/auditlog?", f"/{self.name}?")

    def url_for(self, part: str) -> str:
        """The URL of a part's login."""
        return self.server.url_for(f"auditlog_{part}", self.passwords[part], database=self.name)


@dataclass(frozen=True)
class BenchServer:
    """A server, and the template that its databases are copies of."""

    server: EmbeddedPostgres
    passwords: dict[str, str] = field(repr=False)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[BenchDatabase]:
        """A fresh migrated database, dropped after. What was written before is on disk when it is handed out."""
        name = f"bench_{uuid.uuid4().hex}"
        owner: asyncpg.Connection[Any] = await asyncpg.connect(self.server.owner_url)
        try:
            await owner.execute(f"CREATE DATABASE {name} TEMPLATE bench_template")
            await owner.execute("CHECKPOINT")
            yield BenchDatabase(name, self.server, self.passwords)
        finally:
            await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await owner.close()


@asynccontextmanager
async def bench_server() -> AsyncIterator[BenchServer]:
    """A server in a folder of its own, removed after."""
    folder = _folder()
    passwords = {part: secrets.token_urlsafe(16) for part in migrations.PARTS}
    try:
        async with embedded_postgres(folder / "postgres") as server:
            owner: asyncpg.Connection[Any] = await asyncpg.connect(server.owner_url)
            await owner.execute("CREATE DATABASE bench_template")
            await migrations.migrate(server.owner_url.replace("/auditlog?", "/bench_template?"), passwords=passwords)
            await owner.close()
            yield BenchServer(server, passwords)
    finally:
        shutil.rmtree(folder)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="auditlog-bench-", dir="/tmp"))
    folder.chmod(0o711)
    return folder
