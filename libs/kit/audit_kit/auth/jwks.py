"""An issuer's public keys: fetched, bounded, rotated, and kept when the issuer can't be reached."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import httpx
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import InvalidKeyError, PyJWKError

from audit_contracts.errors import KeyUnavailable, Unauthenticated
from audit_contracts.ports.clock import Clock
from audit_kit.metrics import JWKS_REFRESHES

ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
FETCH_TIMEOUT_S: Final = 5.0
DOCUMENT_BYTES_MAX: Final = 256 * 1024
KEYS_MAX: Final = 100
RSA_BITS_MIN: Final = 2048
REFRESH_AFTER_S: Final = 600.0
"""A key that the issuer withdrew is refused after this time at the latest."""
REFRESH_APART_S: Final = 10.0
"""The least time between two fetches, so that tokens with unknown kids can't make us flood the issuer."""

# What a key can sign follows from the key alone, never from a token.
_ALGORITHM_OF: Final[Mapping[tuple[str, str | None], str]] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}

log = structlog.get_logger(__name__)

LoadJwks = Callable[[], Awaitable[bytes]]


class Jwks:
    """The keys of one issuer. The first use loads them; no import and no constructor opens a connection."""

    def __init__(self, *, iss: str, load: LoadJwks, clock: Clock) -> None:
        self._iss = iss
        self._load = load
        self._clock = clock
        self._keys: Mapping[str | None, PyJWK] | None = None
        self._loaded_at = 0.0
        self._tried_at: float | None = None
        self._refreshing = asyncio.Lock()

    async def key(self, kid: str | None, algorithm: str) -> PyJWK:
        """
        The key named `kid`, if it signs with `algorithm`; without a kid, the issuer's only key.

        Raises:
            Unauthenticated: the issuer has no such key.
            KeyUnavailable: its keys were never had, and can't be had now.
        """
        if self._keys is None or self._clock.monotonic_s() - self._loaded_at >= REFRESH_AFTER_S:
            await self._refresh()
        found = self._find(kid)
        if found is None:
            await self._refresh()
            found = self._find(kid)
        if self._keys is None:
            raise KeyUnavailable(f"the keys of {self._iss} can't be had now", retry_after_s=REFRESH_APART_S)
        if found is None or found.algorithm_name != algorithm:
            raise Unauthenticated("the token is signed with a key that its issuer doesn't publish")
        return found

    def _find(self, kid: str | None) -> PyJWK | None:
        keys = self._keys or {}
        if kid is None:
            return next(iter(keys.values())) if len(keys) == 1 else None
        return keys.get(kid)

    async def _refresh(self) -> None:
        """Fetch the keys, at most once at a time and once in `REFRESH_APART_S`; a failure keeps those at hand."""
        async with self._refreshing:
            now = self._clock.monotonic_s()
            if self._tried_at is not None and now - self._tried_at < REFRESH_APART_S:
                return
            self._tried_at = now
            try:
                self._keys = parse_jwks(await self._load())
            except (httpx.HTTPError, OSError, ValueError) as exc:
                JWKS_REFRESHES.labels("failed").inc()
                log.warning("jwks_refresh_failed", iss=self._iss, error=type(exc).__name__, reason=str(exc))
                return
            self._loaded_at = now
            JWKS_REFRESHES.labels("done").inc()


def parse_jwks(document: bytes) -> Mapping[str | None, PyJWK]:
    """
    The document's signing keys of the allowed kinds by kid; others are left out, as RFC 7517 section 5 asks.

    Raises:
        ValueError: it isn't a JWK set, or has no key that can be used.
    """
    try:
        parsed = json.loads(document)
    except RecursionError as exc:
        raise ValueError("not a JWK set") from exc
    listed = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(listed, list) or len(listed) > KEYS_MAX:
        raise ValueError(f"not a JWK set of at most {KEYS_MAX} keys")
    keys = [key for key in map(_signing_key, listed) if key is not None]
    if not keys:
        raise ValueError("no signing key for RS256, ES256 or EdDSA")
    return {key.key_id: key for key in keys}


def _signing_key(jwk: Any) -> PyJWK | None:
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    operations, curve, kid = jwk.get("key_ops", ["verify"]), jwk.get("crv"), jwk.get("kid")
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    algorithm = _ALGORITHM_OF.get((str(jwk.get("kty")), None if curve is None else str(curve)))
    if algorithm is None or jwk.get("alg", algorithm) != algorithm or not isinstance(kid, str | None):
        return None
    public = {name: value for name, value in jwk.items() if name not in {"d", "p", "q", "dp", "dq", "qi", "oth"}}
    try:
        key = PyJWK(public, algorithm=algorithm)
    except (PyJWKError, InvalidKeyError, ValueError, TypeError):
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < RSA_BITS_MIN:
        return None
    return key


def from_file(url: str) -> LoadJwks:
    """Keys from `file:///…`, read anew at each refresh."""
    path = Path(unquote(urlsplit(url).path))

    def read() -> bytes:
        with path.open("rb") as file:
            document = file.read(DOCUMENT_BYTES_MAX + 1)
        if len(document) > DOCUMENT_BYTES_MAX:
            raise ValueError("the key file is too large")
        return document

    async def load() -> bytes:
        return await asyncio.to_thread(read)

    return load


def from_url(url: str, client: httpx.AsyncClient) -> LoadJwks:
    """Keys over HTTP: no redirects, bounded in time and size."""

    async def load() -> bytes:
        async with asyncio.timeout(FETCH_TIMEOUT_S), client.stream("GET", url, follow_redirects=False) as response:
            if response.status_code != 200:
                raise ValueError(f"answered {response.status_code}")
            document = bytearray()
            async for chunk in response.aiter_bytes():
                document += chunk
                if len(document) > DOCUMENT_BYTES_MAX:
                    raise ValueError("the answer is too large")
            return bytes(document)

    return load


def from_memory(document: bytes) -> LoadJwks:
    """Keys that this process holds itself."""

    async def load() -> bytes:
        return document

    return load
