"""
Where tests get real servers.

    owner_url            (session)   URL of a PostgreSQL for its owner, who may create roles and databases
    database             (a test)    a fresh migrated `Database` of the test's own
    module_database      (a module)  the same, shared by the tests of a module
    fresh_database       (session)   makes more of them: `async with fresh_database() as database`
    throwaway_postgres   (a test)    a migrated server of the test's own, to kill and restart
    small_disk_postgres  (a test)    the same on a disk that can be filled; only as root, who may mount one

PostgreSQL is the one that AUDITLOG_TEST_DATABASE_URL names, else the embedded one, started once a run (under
pytest-xdist once a worker). Roles belong to a whole server, not to a database: all databases of a run share the parts'
logins.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from audit_allinone.embedded_postgres import EmbeddedPostgres, embedded_postgres
from audit_backends.schema import migrations

URL_VARIABLE: Final = "AUDITLOG_TEST_DATABASE_URL"
SMALL_DISK_SKIP: Final = "a disk that can be filled needs root to mount it"
# A new cluster takes 40 MB; the log of changes must not fill the disk before the test does.
_SMALL_DISK_MIB: Final = 256
_SMALL_DISK_SETTINGS: Final = {"max_wal_size": "64MB", "min_wal_size": "32MB", "shared_buffers": "32MB"}

FreshDatabase = Callable[[], AbstractAsyncContextManager["Database"]]


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database; its URLs hold passwords, so that they are not shown."""

    owner_url: str = field(repr=False)

    def url_for(self, part: str) -> str:
        """Return the URL of a part's own login: ingest, projector, query or admin."""
        return _with(self.owner_url, login=f"auditlog_{part}", password=_part_passwords(self.owner_url)[part])


class ThrowawayPostgres:
    """A server of one test's own on one folder; its URLs stay the same from start to start."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._settings = settings
        self._stack = AsyncExitStack()
        self._server: EmbeddedPostgres | None = None

    @property
    def server(self) -> EmbeddedPostgres:
        """The running server."""
        assert self._server is not None, "the server is stopped"
        return self._server

    @property
    def database(self) -> Database:
        """Its database, migrated."""
        return Database(self.server.owner_url)

    async def start(self) -> None:
        """Start it, and migrate a new database; what a kill left is recovered."""
        self._server = await self._stack.enter_async_context(embedded_postgres(self._folder, settings=self._settings))
        if self._server.created:
            await _migrate(self._server.owner_url)

    async def stop(self) -> None:
        """Stop it cleanly, if it runs."""
        self._server = None
        await self._stack.aclose()

    async def kill(self) -> None:
        """End it as loss of power would, but for what the system's page cache still writes; then `start` recovers."""
        server = self.server
        os.kill(server.pid, signal.SIGKILL)
        await server.wait()
        await self.stop()


class SmallDiskPostgres(ThrowawayPostgres):
    """A throw-away server on a disk of 256 MiB."""

    def __init__(self, disk: Path) -> None:
        super().__init__(disk / "postgres", _SMALL_DISK_SETTINGS)
        self._ballast = disk / "ballast"

    def fill_disk(self) -> None:
        """Leave not one free byte on the disk."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (1024 * 1024, 4096, 1):
                _write_until_full(descriptor, b"\0" * size)
        finally:
            os.close(descriptor)

    def free_disk(self) -> None:
        """Take back what `fill_disk` took."""
        self._ballast.unlink()


@pytest.fixture(scope="session")
async def owner_url() -> AsyncIterator[str]:
    """The URL of this run's PostgreSQL for its owner."""
    if url := os.environ.get(URL_VARIABLE):
        yield url
        return
    with short_folder() as folder:
        async with embedded_postgres(folder / "postgres") as server:
            yield server.owner_url


@pytest.fixture(scope="session")
async def fresh_database(owner_url: str) -> AsyncIterator[FreshDatabase]:
    """Makes migrated databases, each a copy (0.1 s) of one that was migrated once."""
    template = _new_name()
    await _execute(owner_url, f"CREATE DATABASE {template}")
    await _migrate(_with(owner_url, database=template))
    # Nobody may be connected to what is copied.
    await _execute(owner_url, f"ALTER DATABASE {template} ALLOW_CONNECTIONS false")

    @asynccontextmanager
    async def fresh() -> AsyncIterator[Database]:
        name = _new_name()
        await _execute(owner_url, f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield Database(_with(owner_url, database=name))
        finally:
            await _execute(owner_url, f"DROP DATABASE {name} WITH (FORCE)")

    yield fresh
    await _execute(owner_url, f"DROP DATABASE {template} WITH (FORCE)")


@pytest.fixture
async def database(fresh_database: FreshDatabase) -> AsyncIterator[Database]:
    """A migrated database for one test alone."""
    async with fresh_database() as made:
        yield made


@pytest.fixture(scope="module")
async def module_database(fresh_database: FreshDatabase) -> AsyncIterator[Database]:
    """A migrated database that the tests of a module share: each takes tenants of its own."""
    async with fresh_database() as made:
        yield made


@pytest.fixture
async def throwaway_postgres() -> AsyncIterator[ThrowawayPostgres]:
    """A running server, migrated, that one test may kill, stop and start."""
    with short_folder() as folder:
        postgres = ThrowawayPostgres(folder / "postgres")
        try:
            await postgres.start()
            yield postgres
        finally:
            await postgres.stop()


@pytest.fixture
async def small_disk_postgres() -> AsyncIterator[SmallDiskPostgres]:
    """The same on a disk that the test may fill."""
    if os.geteuid() != 0:
        pytest.skip(SMALL_DISK_SKIP)
    with short_folder() as folder, mounted_tmpfs(folder / "disk", size_mib=_SMALL_DISK_MIB) as disk:
        postgres = SmallDiskPostgres(disk)
        try:
            await postgres.start()
            yield postgres
        finally:
            await postgres.stop()


@contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder with a path short enough for sockets, which the server's user can pass; it is removed after."""
    folder = Path(tempfile.mkdtemp(prefix="auditlog-test-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def mounted_tmpfs(folder: Path, *, size_mib: int) -> Iterator[Path]:
    """Mount a disk of that size on a new folder; as root alone."""
    folder.mkdir()
    options = f"size={size_mib}m,mode=0711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _write_until_full(descriptor: int, block: bytes) -> None:
    try:
        while True:
            os.write(descriptor, block)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise


async def _migrate(url: str) -> None:
    await migrations.migrate(url, passwords=_part_passwords(url))


def _part_passwords(owner_url: str) -> Mapping[str, str]:
    # Always the same on one server, so that runs that share one do not lock each other out.
    secret = f"{urlsplit(owner_url).password}"
    return {part: hashlib.sha256(f"{part} {secret}".encode()).hexdigest() for part in migrations.PARTS}


def _with(url: str, *, database: str | None = None, login: str | None = None, password: str = "") -> str:
    split = urlsplit(url)
    if database is not None:
        split = split._replace(path=f"/{database}")
    if login is not None:
        split = split._replace(netloc=f"{login}:{password}@{split.netloc.rpartition('@')[2]}")
    return urlunsplit(split)


def _new_name() -> str:
    return f"auditlog_test_{uuid.uuid4().hex}"


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
