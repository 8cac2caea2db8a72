"""
The folder of `auditlog up`: the embedded database, its logins, its keys and the client's profile.

    postgres/         the embedded PostgreSQL, see postgres_folder.py
    logins.json       passwords of the parts' logins                       0600
    root-key          the root of all keys; back it up apart from the rest  0600
    dev-issuer.pem    signs the tokens of development mode                  0600
    profile.json      URL, tenant and token for the client's verbs         0600
    operator.json     the same for the operator's admin, who makes tenants  0600
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from audit_allinone.embedded_postgres import DATABASE
from audit_allinone.failures import Failure
from audit_allinone.private_files import write_private
from audit_backends.schema.migrations import PARTS

AS_ROOT: Final = Path("/var/lib/auditlog")
"""PostgreSQL then runs under a user of its own, who can't reach root's folders."""
AS_USER: Final = Path(".auditlog")


class FolderUnusable(Failure):
    """The data folder can't be made or read; the message tells a person why."""


def default_folder() -> Path:
    """Where data lies unless told otherwise."""
    return AS_ROOT if os.geteuid() == 0 else AS_USER


@dataclass(frozen=True, slots=True)
class DataFolder:
    """One data folder; `make` before anything else."""

    path: Path

    @property
    def postgres(self) -> Path:
        """The embedded PostgreSQL's."""
        return self.path / "postgres"

    @property
    def root_key(self) -> Path:
        """The root of all keys."""
        return self.path / "root-key"

    @property
    def profile(self) -> Path:
        """The client's profile."""
        return self.path / "profile.json"

    @property
    def operator_profile(self) -> Path:
        """The operator's profile, to be named by AUDITLOG_PROFILE."""
        return self.path / "operator.json"

    def make(self) -> None:
        """
        Make the folder and those above it, for their owner alone; root's let others pass, but not look.

        Raises:
            FolderUnusable: it can't be made, or is none.
        """
        mode = 0o711 if os.geteuid() == 0 else 0o700
        path = self.path.absolute()
        try:
            for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
                missing.mkdir()
                missing.chmod(mode)  # mkdir's own mode is cut by the umask
            if not os.access(path, os.W_OK | os.X_OK) or not path.is_dir():
                raise FolderUnusable(f"the data folder {path} is not a folder that this user may write to")
        except OSError as exc:
            raise FolderUnusable(f"the data folder {path} can't be made: {exc.strerror}") from exc

    def logins(self, database_url: str | None) -> Path:
        """The file of the parts' passwords: of the embedded database, or of the server behind `database_url`."""
        if database_url is None:
            return self.path / "logins.json"
        # Logins belong to a server, so that a file made for one must never set passwords on another.
        parts = urlsplit(database_url)
        server = hashlib.sha256(f"{parts.hostname}:{parts.port}?{parts.query}".encode()).hexdigest()[:12]
        return self.path / f"logins-{server}.json"

    def login_url(self, part: str) -> str:
        """
        The URL of a part's login at the embedded database, while `auditlog up` runs it.

        Raises:
            FolderUnusable: the password is not here to be read.
        """
        password = quote(kept_logins(self.logins(None))[part], safe="")
        socket = (self.postgres / "socket").resolve()
        return f"postgresql://auditlog_{part}:{password}@/{DATABASE}?host={socket}"


def kept_logins(file: Path) -> Mapping[str, str]:
    """
    The passwords in `file`, by part; random ones are put there if there is none.

    Raises:
        FolderUnusable: the file isn't what was written.
    """
    if not file.exists():
        write_private(file, json.dumps({part: secrets.token_urlsafe(24) for part in PARTS}, indent=2))
    try:
        passwords = json.loads(file.read_text(encoding="utf-8"))
        return {part: str(passwords[part]) for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise FolderUnusable(f"{file} can't be read; without it the parts can't reach the database") from exc
