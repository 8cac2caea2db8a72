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


def target(url: str | None, token: str | None) -> Target:
    """
    Where a client's verb goes.

    Raises:
        Failure: nothing says which server, or as whom.
    """
    url = url or os.environ.get("AUDITLOG_URL")
    token = token or os.environ.get("AUDITLOG_TOKEN")
    path = profile_path()
    kept = None if url and token else read_profile(path)
    if kept is not None and url and url.rstrip("/") != kept.url:
        # A credential goes to no other server than the one that it was written down for.
        kept = None
    found_url, found_token = url or (kept and kept.url), token or (kept and kept.token)
    if not found_url or not found_token:
        missing = "server" if not found_url else "token"
        raise Failure(
            f"no {missing} is known: start `auditlog up`, or give --url and --token, or set AUDITLOG_URL and "
            f"AUDITLOG_TOKEN (there is no profile for it in {path})"
        )
    return Target(url=found_url.rstrip("/"), token=found_token)
