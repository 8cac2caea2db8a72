"""
The port `KeyStore` over a root key of 32 random bytes in a file that only its owner may read.

    wrapped = u8 version | root_id[8] | nonce[12] | AES-256-GCM(key)
              AAD = "auditlog/data-key/1\\n" | tenant | "\\n" | purpose | "\\n" | version | root_id

`root_id` names the root, so that a wrong file says so instead of looking like damage. Whoever loses the file loses all
that was sealed, so it belongs into a backup of its own, apart from the database's.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from audit_contracts.errors import AuditLogError, SealBroken
from audit_contracts.ports.key_store import DataKey
from audit_contracts.principal import TenantId

KEY_BYTES: Final = 32
WRAPPED_VERSION: Final = 1

_TAG: Final = b"auditlog/data-key/1\n"
_ROOT_ID_LABEL: Final = b"auditlog/root-id/1"
_ROOT_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_HEAD_BYTES: Final = 1 + _ROOT_ID_BYTES
_BOX_AT: Final = _HEAD_BYTES + _NONCE_BYTES


class KeyFileUnusable(AuditLogError):
    """The root key's file is missing, not 32 bytes, or readable by others."""


class FileKeyStore:
    """Wraps data keys under the root key of a file. Holds the root in memory and no file open."""

    def __init__(self, root: bytes) -> None:
        root_id = HKDF(SHA256(), _ROOT_ID_BYTES, salt=None, info=_ROOT_ID_LABEL).derive(root)
        self._head = bytes([WRAPPED_VERSION]) + root_id
        self._cipher = AESGCM(root)

    @classmethod
    def open(cls, path: Path) -> FileKeyStore:
        """
        The store of the root key in `path`.

        Raises:
            KeyFileUnusable: there is none, it isn't a root key, or others than this process's user may read it.
        """
        return cls(_read_root(path))

    @classmethod
    def create(cls, path: Path) -> FileKeyStore:
        """
        The store of the root key in `path`, which is made there if it doesn't exist: whole or not at all, and on disk
        when this returns. Two that create at once get the same key. Only for a new database: what another root has
        wrapped stays closed.

        Raises:
            KeyFileUnusable: as for `open`.
            OSError: the file can't be written.
        """
        if not path.exists():
            _write_root(path)
        return cls.open(path)

    async def new_data_key(self, tenant: TenantId, purpose: str) -> DataKey:
        plain = secrets.token_bytes(KEY_BYTES)
        nonce = os.urandom(_NONCE_BYTES)
        box = self._cipher.encrypt(nonce, plain, self._aad(tenant, purpose))
        return DataKey(plain, self._head + nonce + box)

    async def unwrap(self, tenant: TenantId, purpose: str, wrapped: bytes) -> bytes:
        head, nonce, box = wrapped[:_HEAD_BYTES], wrapped[_HEAD_BYTES:_BOX_AT], wrapped[_BOX_AT:]
        if head[:1] != self._head[:1] or len(box) < KEY_BYTES:
            raise SealBroken("not a wrapped key of version 1")
        if head != self._head:
            raise SealBroken("the key was wrapped under another root key than that of this key file")
        try:
            return self._cipher.decrypt(nonce, box, self._aad(tenant, purpose))
        except InvalidTag as exc:
            raise SealBroken("a wrapped key does not open: altered, or of another tenant or purpose") from exc

    async def close(self) -> None:
        """Nothing to let go of."""

    def _aad(self, tenant: TenantId, purpose: str) -> bytes:
        return b"%s%s\n%s\n%s" % (_TAG, tenant.encode(), purpose.encode(), self._head)

    def __repr__(self) -> str:
        return f"FileKeyStore(root_id={self._head[1:].hex()})"


def _read_root(path: Path) -> bytes:
    try:
        # Opened before it is looked at, so that what was checked is what is read.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise KeyFileUnusable(f"the root key can't be read ({exc.strerror}): {path}") from exc
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileUnusable(f"the root key is not a file: {path}")
        if found.st_mode & 0o077:
            raise KeyFileUnusable(f"others may read the root key; run `chmod 600 {path}`")
        if found.st_uid not in (os.geteuid(), 0):
            raise KeyFileUnusable(f"the root key belongs to another user, who may read it: {path}")
        root = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(root) != KEY_BYTES:
        raise KeyFileUnusable(f"the root key must be {KEY_BYTES} bytes: {path}")
    return root


def _write_root(path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        # A link, unlike a rename, never replaces the key of another who was faster.
        with suppress(FileExistsError):
            path.hardlink_to(unfinished)
    finally:
        unfinished.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
