"""
The client's profile: which server, which tenant, which credential. `auditlog up` writes it, the client's verbs read it.

Each of URL and token comes from the first of these that has it: the option, AUDITLOG_URL or AUDITLOG_TOKEN, the file
that AUDITLOG_PROFILE names, `profile.json` in the data folder (AUDITLOG_DATA_DIR, else the default one).
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from audit_allinone.data_folder import DataFolder, default_folder
from audit_allinone.failures import Failure
from audit_allinone.private_files import write_private


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What `profile.json` holds."""

    url: str
    tenant: str
    token: str

    def __repr__(self) -> str:
        return f"Profile(url={self.url!r}, tenant={self.tenant!r})"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server, and as whom to speak to it."""

    url: str
    token: str

    def __repr__(self) -> str:
        return f"Target(url={self.url!r})"


def profile_path() -> Path:
    """The file that the client's verbs read."""
    if named := os.environ.get("AUDITLOG_PROFILE"):
        return Path(named)
    folder = os.environ.get("AUDITLOG_DATA_DIR")
    return DataFolder(Path(folder) if folder else default_folder()).profile


def read_profile(path: Path) -> Profile | None:
    """
    The profile in `path`, or None where there is no such file.

    Raises:
        Failure: it can't be read, or isn't one.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Failure(f"the profile {path} can't be read: {exc.strerror}") from exc
    except msgspec.DecodeError as exc:
        raise Failure(f"{path} is not a profile: {exc}") from exc


def write_profile(path: Path, profile: Profile) -> None:
    """Keep `profile`, for its owner's eyes alone."""
    write_private(path, msgspec.json.format(msgspec.json.encode(profile), indent=2).decode() + "\n")


def server_url(url: str | None) -> str:
    """
    The server that a client's verb speaks to.

    Raises:
        Failure: nothing says which.
    """
    path = profile_path()
    found = url or os.environ.get("AUDITLOG_URL")
    if not found and (kept := read_profile(path)):
        found = kept.url
    if not found:
        raise Failure(f"no server is known: start `auditlog up`, or give --url or AUDITLOG_URL (there is no {path})")
    return found.rstrip("/")


def target(url: str | None, token: str | None) -> Target:
    """
    The server that a client's verb speaks to, and the credential for it.

    Raises:
        Failure: nothing says which server, or as whom.
    """
    where = server_url(url)
    found = token or os.environ.get("AUDITLOG_TOKEN")
    # A kept credential goes to no other server than the one that it was kept for.
    if not found and (kept := read_profile(profile_path())) and kept.url == where:
        found = kept.token
    if not found:
        raise Failure(f"no token for {where} is known: give --token or AUDITLOG_TOKEN")
    return Target(url=where, token=found)
