"""An issuer within the process, for development and the command's own client; its key is a file that only we read."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from audit_contracts.ports.clock import Clock
from audit_contracts.principal import Permission, Role, TenantId
from audit_kit.auth.issuers import ANY_TENANT, Issuer
from audit_kit.auth.jwks import Jwks, from_memory

ISS: Final = "urn:auditlog:dev"
AUDIENCE: Final = "auditlog"
KID: Final = "dev"
FILE_NAME: Final = "dev-issuer.pem"
TOKEN_TTL_S: Final = 3600


class DevIssuer:
    """Mints tokens for any tenant and role. Whoever has its key is everybody, so it is for one machine alone."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, folder: Path) -> DevIssuer:
        """
        The issuer whose key lies in `folder`; a new key (mode 0600) where there is none.

        Raises:
            PermissionError: others than its owner may read the key.
            ValueError: the file isn't an Ed25519 key.
        """
        path = folder / FILE_NAME
        if not path.exists():
            _write_new(path)
        if path.stat().st_mode & 0o077:
            raise PermissionError(f"{path} must be readable by its owner alone: chmod 600 {path}")
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} isn't an Ed25519 key")
        return cls(key)

    def trusted(self, clock: Clock) -> tuple[Issuer, Jwks]:
        """This issuer as an authenticator trusts it."""
        issuer = Issuer(iss=ISS, audience=AUDIENCE, jwks="memory:", tenants=frozenset({ANY_TENANT}))
        return issuer, Jwks(iss=ISS, load=from_memory(self.jwks()), clock=clock)

    def jwks(self) -> bytes:
        """The public key as a JWK set."""
        jwk = OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return json.dumps({"keys": [{**jwk, "kid": KID, "use": "sig", "alg": "EdDSA"}]}).encode()

    def mint(
        self,
        *,
        tenant: TenantId,
        subject: str,
        role: Role,
        now_s: int,
        scope: Iterable[Permission] | None = None,
        ttl_s: int = TOKEN_TTL_S,
    ) -> str:
        """A token for `subject` of `tenant`, valid for `ttl_s` seconds from `now_s` (seconds since 1970)."""
        claims: dict[str, object] = {
            "iss": ISS,
            "aud": AUDIENCE,
            "sub": subject,
            "tenant_id": tenant,
            "access_level": role.value,
            "iat": now_s,
            "nbf": now_s,
            "exp": now_s + ttl_s,
        }
        if scope is not None:
            claims["scope"] = " ".join(sorted(permission.value for permission in scope))
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": KID, "typ": "at+jwt"})


def _write_new(path: Path) -> None:
    """Make a key: whole or not at all, and in place of none that is there already."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(unfinished)
    finally:
        unfinished.unlink(missing_ok=True)
