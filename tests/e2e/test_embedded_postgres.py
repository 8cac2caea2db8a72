"""The embedded PostgreSQL: it starts anywhere it should, refuses clearly elsewhere, and outlives every kill -9."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import psutil
import pytest

from audit_allinone import postgres_folder
from audit_allinone.embedded_postgres import OWNER, EmbeddedPostgres, EmbeddedPostgresError, embedded_postgres
from tests.services import mounted_tmpfs, short_folder

T = TypeVar("T")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as another user")

UP = """
import asyncio, sys
from pathlib import Path
from audit_allinone.embedded_postgres import embedded_postgres

async def up():
    async with embedded_postgres(Path(sys.argv[1])) as server:
        print("READY", server.pid, flush=True)
        await server.wait()

asyncio.run(up())
"""


@pytest.fixture
def base() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def folder(base: Path) -> Path:
    return base / "postgres"


async def run(url: str, *statements: str) -> object:
    """Execute all statements and return the first value of the last."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


def started_elsewhere(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Start the server in a process of its own; return that, and the server's pid."""
    process = subprocess.Popen([sys.executable, "-c", UP, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("READY"):
            return process, int(line.split()[1])
    raise AssertionError(f"it did not start: {process.wait()}")


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


async def until_ended(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(psutil.Process(pid).wait, 60)


def server_uid() -> int:
    return pwd.getpwnam(postgres_folder.SERVER_USER).pw_uid if os.geteuid() == 0 else os.geteuid()


def of_each_process(pid: int, ask: Callable[[psutil.Process], T]) -> list[T]:
    """What each process of a server answers; one that ends meanwhile has no answer."""
    answers = []
    for process in (psutil.Process(pid), *psutil.Process(pid).children()):
        with suppress(psutil.NoSuchProcess):
            answers.append(ask(process))
    return answers


def groups_of(pid: int) -> list[int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return [int(group) for group in status["Groups"].split()]


def as_server_user() -> dict[str, Any]:
    """How to start a process as the user that the server runs as."""
    return {"user": server_uid(), "extra_groups": []} if os.geteuid() == 0 else {}


def modes(*roots: Path) -> dict[Path, tuple[int, int, int]]:
    found = {}
    for root in roots:
        for path in (root, *root.parents, *root.rglob("*")):
            status = path.lstat()
            found[path] = (status.st_mode, status.st_uid, status.st_gid)
    return found


async def test_the_first_start_makes_the_database_and_the_second_continues_it(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        assert server.created
        await run(server.owner_url, "CREATE TABLE kept AS SELECT 42 AS n", "SELECT 1")
    async with embedded_postgres(folder) as server:
        assert not server.created
        assert await run(server.owner_url, "SELECT n FROM kept") == 42


async def test_after_kill_9_of_the_postmaster_the_next_start_has_what_was_committed(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        await run(server.owner_url, "CREATE TABLE kept AS SELECT 42 AS n", "SELECT 1")
        os.kill(server.pid, signal.SIGKILL)
        assert await server.wait() == -signal.SIGKILL
    async with embedded_postgres(folder) as server:
        assert await run(server.owner_url, "SELECT n FROM kept") == 42


async def test_a_server_ends_with_the_process_that_started_it(folder: Path) -> None:
    process, pid = await asyncio.to_thread(started_elsewhere, folder)
    killed(process)
    await until_ended(pid)
    assert not psutil.pid_exists(pid)


async def test_after_kill_9_of_the_starting_process_the_next_start_recovers_at_once(folder: Path) -> None:
    process, pid = await asyncio.to_thread(started_elsewhere, folder)
    killed(process)
    async with embedded_postgres(folder) as server:
        assert not server.created
        assert not psutil.pid_exists(pid)
        assert await run(server.owner_url, "SELECT 42") == 42


async def test_after_kill_9_of_both_the_next_start_recovers(folder: Path) -> None:
    process, pid = await asyncio.to_thread(started_elsewhere, folder)
    os.kill(pid, signal.SIGKILL)
    killed(process)
    async with embedded_postgres(folder) as server:
        assert await run(server.owner_url, "SELECT 42") == 42


async def test_a_server_that_lives_on_alone_is_shut_down_before_another_opens_its_data(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        await run(server.owner_url, "CREATE TABLE kept AS SELECT 42 AS n", "SELECT 1")
        command = psutil.Process(server.pid).cmdline()
    (folder / "socket").mkdir(mode=0o700)
    shutil.chown(folder / "socket", server_uid())
    alone = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE, cwd="/", **as_server_user())
    assert alone.stderr is not None
    async for line in alone.stderr:
        if b"ready to accept connections" in line:
            break
    async with embedded_postgres(folder) as server:
        assert b"database system is shut down" in await alone.stderr.read()
        await alone.wait()
        assert await run(server.owner_url, "SELECT n FROM kept") == 42


async def test_a_stale_pid_file_that_names_a_strangers_process_does_not_stop_the_start(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        os.kill(server.pid, signal.SIGKILL)
        await server.wait()
    stale = folder / "data" / "postmaster.pid"
    stranger = subprocess.Popen(["sleep", "600"], **as_server_user())
    try:
        lines = stale.read_text().splitlines(keepends=True)
        stale.write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
        async with embedded_postgres(folder) as server:
            assert await run(server.owner_url, "SELECT 42") == 42
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_an_interrupted_initdb_is_begun_anew(folder: Path) -> None:
    with postgres_folder.claimed(folder) as home:
        home.owner_password()
        home.make_unfinished_cluster()
        (home.unfinished_cluster / "PG_VERSION").write_text("18\n")
    async with embedded_postgres(folder) as server:
        assert server.created
    assert not (folder / "data.part").exists()


async def test_a_folder_in_use_is_a_clear_error_and_its_server_goes_on(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        with pytest.raises(EmbeddedPostgresError, match=rf"in use by another auditlog \(process {os.getpid()}\)"):
            async with embedded_postgres(folder):
                pass
        assert await run(server.owner_url, "SELECT 42") == 42


@pytest.mark.parametrize(
    ("name", "why"), [("notes.txt", "not empty"), ("PG_VERSION", "a PostgreSQL that auditlog did not make")]
)
async def test_a_folder_with_the_files_of_others_is_refused_and_left_alone(folder: Path, name: str, why: str) -> None:
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(EmbeddedPostgresError, match=why):
        async with embedded_postgres(folder):
            pass
    assert [entry.name for entry in folder.iterdir()] == [name]


async def test_a_file_in_the_place_of_the_folder_is_a_clear_error(folder: Path) -> None:
    folder.write_text("mine")
    with pytest.raises(EmbeddedPostgresError, match="Not a directory"):
        async with embedded_postgres(folder):
            pass


async def test_another_major_version_is_a_clear_error(folder: Path) -> None:
    async with embedded_postgres(folder):
        pass
    (folder / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match="was made by PostgreSQL 17; PostgreSQL 18 is installed"):
        async with embedded_postgres(folder):
            pass


@pytest.mark.parametrize(("password", "why"), [(None, "is missing"), ("wrong", "does not open the database")])
async def test_a_lost_or_wrong_owner_password_is_a_clear_error(folder: Path, password: str | None, why: str) -> None:
    async with embedded_postgres(folder):
        pass
    (folder / "owner-password").unlink()
    if password is not None:
        (folder / "owner-password").write_text(password)
    with pytest.raises(EmbeddedPostgresError, match=why):
        async with embedded_postgres(folder):
            pass


async def test_a_server_that_does_not_start_says_why(folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"did not start. It said: invalid value for parameter"):
        async with embedded_postgres(folder, settings={"shared_buffers": "much"}):
            pass
    async with embedded_postgres(folder) as server:
        assert server.created


@as_root
async def test_a_full_disk_is_a_clear_error_and_the_next_start_with_room_succeeds(base: Path) -> None:
    with mounted_tmpfs(base / "disk", size_mib=8) as disk:
        with pytest.raises(EmbeddedPostgresError, match="No space left on device"):
            async with embedded_postgres(disk / "postgres"):
                pass
        subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
        async with embedded_postgres(disk / "postgres") as server:
            assert server.created


async def test_every_login_needs_its_password(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        await run(server.owner_url, "CREATE ROLE reader LOGIN PASSWORD 'open: ses@me/?'", "SELECT 1")
        assert await run(server.url_for("reader", "open: ses@me/?"), "SELECT current_user::text") == "reader"
        for role, password in ((OWNER, "wrong"), (OWNER, ""), ("reader", "wrong"), ("reader", "")):
            with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InternalClientError)):
                await run(server.url_for(role, password), "SELECT 1")
        rules = "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules"
        assert await run(server.owner_url, rules) == "scram-sha-256"


async def test_the_only_way_in_is_a_socket_in_a_private_folder(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        status = server.socket_folder.stat()
        assert stat.S_IMODE(status.st_mode) == 0o700
        assert status.st_uid == server_uid()
        assert not any(of_each_process(server.pid, lambda process: process.net_connections("inet")))


async def test_commits_are_durable_whatever_the_files_say(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            await run(server.owner_url, f"ALTER SYSTEM SET {name} = off", "SELECT 1")
    async with embedded_postgres(folder) as server:
        for name in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
            assert await run(server.owner_url, f"SHOW {name}") == "on"


async def test_text_is_compared_by_code_point_and_knows_the_case_of_all_letters(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        assert await run(server.owner_url, "SELECT 'Z' < 'a' AND 'z' < 'Ä'") is True
        assert await run(server.owner_url, "SELECT lower('ÄÉΣ')") == "äéσ"


async def test_the_password_stands_in_no_command_line_repr_log_or_environment(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with embedded_postgres(folder) as server:
        password = (folder / "owner-password").read_text()
        assert password in server.owner_url
        assert stat.S_IMODE((folder / "owner-password").stat().st_mode) == 0o600
        with pytest.raises(asyncpg.DuplicateObjectError):
            await run(server.owner_url, f"CREATE ROLE {OWNER} PASSWORD '{password}'")
        shown = of_each_process(server.pid, lambda process: f"{process.cmdline()} {process.environ()}")
        shown += [repr(server), str(server)]
    shown += [(folder / "server.log").read_text(), *capfd.readouterr()]
    assert not [text for text in shown if password in text]


async def test_the_server_gets_nothing_of_our_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITLOG_SECRET_OF_OURS", "x")
    async with embedded_postgres(folder) as server:
        assert "AUDITLOG_SECRET_OF_OURS" not in psutil.Process(server.pid).environ()


async def test_the_server_stands_in_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        assert os.getsid(server.pid) == server.pid


async def test_the_server_never_runs_as_root_nor_in_its_groups(folder: Path) -> None:
    groups = os.getgroups()
    if os.geteuid() == 0:
        os.setgroups([0])
    try:
        async with embedded_postgres(folder) as server:
            process = psutil.Process(server.pid)
            assert set(process.uids()) == {server_uid()}
            assert 0 not in {*process.uids(), *process.gids(), *groups_of(server.pid)}
    finally:
        if os.geteuid() == 0:
            os.setgroups(groups)


async def test_no_existing_folder_changes_its_mode_or_owner(base: Path) -> None:
    folder = base / "kept" / "postgres"
    folder.mkdir(parents=True)
    (base / "kept").chmod(0o751)
    folder.chmod(0o715)
    package = Path(asyncpg.__file__).parents[1] / "embedded_postgres"
    before = modes(folder, package)
    async with embedded_postgres(folder):
        pass
    after = modes(folder, package)
    assert {path: after[path] for path in before} == before


async def test_new_folders_are_private_whatever_the_umask(base: Path) -> None:
    for umask in (0o000, 0o077):
        previous = os.umask(umask)
        try:
            async with embedded_postgres(base / f"{umask}" / "postgres") as server:
                assert await run(server.owner_url, "SELECT 42") == 42
        finally:
            os.umask(previous)
        passable = 0o711 if os.geteuid() == 0 else 0o700
        assert stat.S_IMODE((base / f"{umask}").stat().st_mode) == passable
        assert stat.S_IMODE((base / f"{umask}" / "postgres").stat().st_mode) == passable
        assert stat.S_IMODE((base / f"{umask}" / "postgres" / "data").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["x" * 120, "with space, comma and 'quotes'"])
async def test_a_path_that_no_socket_can_have_gets_a_short_private_folder(base: Path, name: str) -> None:
    folder = base / name / "postgres"
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(embedded_postgres(folder))
        assert await run(server.owner_url, "SELECT 42") == 42
        short = server.socket_folder
        assert folder not in short.parents
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
        assert short.stat().st_uid == server_uid()
    assert not short.exists()


async def test_a_short_socket_folder_left_by_a_kill_is_removed_by_the_next_start(base: Path) -> None:
    folder = base / ("x" * 120) / "postgres"
    process, pid = await asyncio.to_thread(started_elsewhere, folder)
    left = (folder / "socket").readlink()
    killed(process)
    await until_ended(pid)
    assert left.is_dir()
    async with embedded_postgres(folder) as server:
        assert server.socket_folder != left
        assert not left.exists()


@as_root
async def test_a_folder_that_the_servers_user_cannot_reach_is_a_clear_error(base: Path) -> None:
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match="the user auditlog, who cannot pass"):
        async with embedded_postgres(closed / "postgres"):
            pass
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
async def test_data_of_another_user_is_a_clear_error(folder: Path) -> None:
    async with embedded_postgres(folder):
        pass
    os.chown(folder / "data", 0, 0)
    with pytest.raises(EmbeddedPostgresError, match="belongs to user id 0, but the server would run as auditlog"):
        async with embedded_postgres(folder):
            pass


@as_root
async def test_programs_that_the_servers_user_cannot_reach_are_copied_once(
    base: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = base / "site"
    installed = Path(asyncpg.__file__).parents[1]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed / name, site / name)
    site.chmod(0o700)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    async with embedded_postgres(folder) as server:
        program = Path(psutil.Process(server.pid).exe())
        assert folder / "binaries" in program.parents
        assert await run(server.owner_url, "SELECT 42") == 42
    made_at = program.stat().st_ctime_ns
    async with embedded_postgres(folder):
        assert program.stat().st_ctime_ns == made_at
    assert stat.S_IMODE(site.stat().st_mode) == 0o700


@as_root
async def test_the_servers_user_is_made_if_need_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"auditlog-{os.getpid()}"
    monkeypatch.setattr(postgres_folder, "SERVER_USER", name)
    try:
        async with embedded_postgres(folder) as server:
            entry = pwd.getpwnam(name)
            assert psutil.Process(server.pid).uids().real == entry.pw_uid
            assert entry.pw_shell.endswith("nologin")
    finally:
        subprocess.run(["userdel", name], check=True)


async def test_root_without_a_user_for_the_server_is_a_clear_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(postgres_folder, "SERVER_USER", "auditlog-nobody")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedPostgresError, match="the system user auditlog-nobody could not be made"):
        async with embedded_postgres(folder):
            pass


async def test_a_user_that_the_system_does_not_know_is_a_clear_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 2_000_000_001)
    with pytest.raises(EmbeddedPostgresError, match="User id 2000000001 has no entry in the user database"):
        async with embedded_postgres(folder):
            pass


async def test_after_the_context_nothing_of_the_server_is_left(folder: Path) -> None:
    async with embedded_postgres(folder) as server:
        connection = await asyncpg.connect(server.owner_url)
        pids = [server.pid, *(child.pid for child in psutil.Process(server.pid).children())]
        running: EmbeddedPostgres = server
    assert await running.wait() == 0
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert not (folder / "socket").exists()
    connection.terminate()
