"""API keys for machines: `alk.<tenant>.<key id>.<secret>`, of which only the secret's SHA-256 is ever kept."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final
from uuid import UUID

import msgspec

from audit_contracts.errors import NotFound, Unauthenticated
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.tenant_directory import ApiKey, TenantDirectory
from audit_contracts.principal import Principal, Role, TenantId
from audit_kit.auth.attempts import Identity, NotValidNow
from audit_kit.auth.tokens import narrowed

PREFIX: Final = "alk."
ISSUER: Final = "key"
SECRET_BYTES: Final = 32

_TEXT = re.compile(r"alk\.([a-z0-9][a-z0-9_-]{0,62})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


class PresentedKey(msgspec.Struct, frozen=True):
    """An API key as a client sends it."""

    tenant: TenantId
    key_id: UUID
    secret: bytes

    @property
    def text(self) -> str:
        """The key in its text form; shown once, when it is made."""
        return f"{PREFIX}{self.tenant}.{_encoded(self.key_id.bytes)}.{_encoded(self.secret)}"

    @property
    def secret_hash(self) -> bytes:
        """What is stored of the secret."""
        return hashlib.sha256(self.secret).digest()

    def __repr__(self) -> str:
        return f"PresentedKey(tenant={self.tenant!r}, key_id={self.key_id!s})"


def new_api_key(tenant: TenantId, key_id: UUID) -> PresentedKey:
    """A key with a fresh random secret."""
    return PresentedKey(tenant, key_id, secrets.token_bytes(SECRET_BYTES))


def parse_api_key(text: str) -> PresentedKey:
    """
    The key that `text` is.

    Raises:
        Unauthenticated: it isn't one, or not in the one form that it has.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise Unauthenticated("the API key isn't well-formed")
    key_id, secret = _decoded(match[2]), _decoded(match[3])
    # Base64 has spare bits at its end: only the canonical text is accepted, so that a key has one text.
    if _encoded(key_id) != match[2] or _encoded(secret) != match[3]:
        raise Unauthenticated("the API key isn't well-formed")
    return PresentedKey(TenantId(match[1]), UUID(bytes=key_id), secret)


class ApiKeyVerifier:
    """API keys as `directory` knows them; a cache in front of it decides how soon a revoked key is dead."""

    def __init__(self, *, directory: TenantDirectory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    async def verify(self, text: str) -> Principal:
        """
        Who the key stands for.

        Raises:
            Unauthenticated: there is no such key, or its secret is another (`NotValidNow`: revoked or expired).
            RateLimited: too many unknown keys are being tried.
            DirectoryUnavailable: keys can't be read now.
        """
        presented = parse_api_key(text)
        try:
            key = await self._directory.api_key(presented.tenant, presented.key_id)
        except NotFound as exc:
            raise Unauthenticated("there is no such API key") from exc
        # One text for a wrong id and a wrong secret, so that neither can be told from the other.
        if not hmac.compare_digest(presented.secret_hash, key.secret_hash):
            raise Unauthenticated("there is no such API key")
        identity = Identity(issuer=ISSUER, subject=str(key.key_id), tenant=key.tenant)
        if key.revoked_at is not None:
            raise NotValidNow("the API key was revoked", identity)
        if key.expires_at is not None and key.expires_at.timestamp() * 1_000_000 <= self._clock.now_us():
            raise NotValidNow("the API key has expired", identity)
        return _principal(key)


def _principal(key: ApiKey) -> Principal:
    subject = str(key.key_id)
    scope = None if key.scope is None else frozenset(permission.value for permission in key.scope)
    return Principal(
        tenant=key.tenant,
        issuer=ISSUER,
        subject=subject,
        role=key.role,
        permissions=narrowed(key.tenant, key.role, scope),
        data_scope=key.data_scope,
        own_entries_of=subject if key.role is Role.USER else None,
    )


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
