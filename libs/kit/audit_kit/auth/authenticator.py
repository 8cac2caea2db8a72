"""From the Authorization header to a principal, cheaply for a credential that was just verified."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import httpx

from audit_contracts.errors import Forbidden, NotDone, Unauthenticated
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.tenant_directory import TenantDirectory
from audit_contracts.principal import Principal
from audit_kit.auth.api_keys import PREFIX, ApiKeyVerifier
from audit_kit.auth.issuers import Issuer
from audit_kit.auth.jwks import Jwks, from_file, from_url
from audit_kit.auth.tokens import TokenVerifier
from audit_kit.metrics import AUTHENTICATIONS

CACHED_TOKENS_MAX: Final = 10_000
CACHED_FOR_S: Final = 60.0

_CACHED: Final = AUTHENTICATIONS.labels("jwt", "cached")


class Authenticator:
    """
    Bearer credentials, JWTs and API keys alike.

    A verified token is remembered by its SHA-256 for at most 60 s and never beyond its `exp`; the least recently used
    goes first where there are too many.
    """

    def __init__(self, *, tokens: TokenVerifier, keys: ApiKeyVerifier, clock: Clock) -> None:
        self._tokens = tokens
        self._keys = keys
        self._clock = clock
        self._cache: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    async def principal(self, authorization: bytes | None) -> Principal:
        """
        Who the value of the request's one Authorization header stands for.

        Raises:
            Unauthenticated: nobody that can be verified.
            Forbidden: somebody who claims what its issuer may not give.
            NotDone: keys can't be read now, or too many unknown ones are being tried.
        """
        if authorization is None:
            AUTHENTICATIONS.labels("none", "refused").inc()
            raise Unauthenticated
        digest = hashlib.sha256(authorization).digest()
        cached = self._cache.get(digest)
        if cached is not None:
            if self._clock.monotonic_s() < cached[1]:
                self._cache.move_to_end(digest)
                _CACHED.inc()
                return cached[0]
            del self._cache[digest]
        return await self._verified(authorization, digest)

    async def _verified(self, authorization: bytes, digest: bytes) -> Principal:
        scheme, _, credential = authorization.decode("latin-1").partition(" ")
        credential = credential.strip(" ")
        kind = "api_key" if credential.startswith(PREFIX) else "jwt"
        outcome = "refused"
        try:
            if scheme.lower() != "bearer":
                raise Unauthenticated("the Authorization header must be: Bearer, a space, the token or API key")
            if kind == "api_key":
                principal = await self._keys.verify(credential)
            else:
                verified = await self._tokens.verify(credential)
                principal = verified.principal
                self._remember(digest, principal, verified.expires_at_s)
            outcome = "verified"
            return principal
        except Forbidden:
            outcome = "forbidden"
            raise
        except NotDone:
            outcome = "unavailable"
            raise
        finally:
            AUTHENTICATIONS.labels(kind, outcome).inc()

    def _remember(self, digest: bytes, principal: Principal, expires_at_s: float) -> None:
        for_s = min(CACHED_FOR_S, expires_at_s - self._clock.now_us() / 1_000_000)
        if for_s <= 0:
            return
        self._cache[digest] = (principal, self._clock.monotonic_s() + for_s)
        if len(self._cache) > CACHED_TOKENS_MAX:
            self._cache.popitem(last=False)


@asynccontextmanager
async def opened_authenticator(
    *,
    issuers: Sequence[Issuer],
    own: Sequence[tuple[Issuer, Jwks]] = (),
    directory: TenantDirectory,
    clock: Clock,
) -> AsyncIterator[Authenticator]:
    """
    An authenticator for tokens of `issuers` and of this process's `own`, and for the API keys of `directory`.

    `directory` should be cached: it is asked at each request that carries an API key.
    """
    async with AsyncExitStack() as stack:
        trusted = list(own)
        client: httpx.AsyncClient | None = None
        for issuer in issuers:
            if issuer.jwks.startswith("file:"):
                load = from_file(issuer.jwks)
            else:
                if client is None:
                    client = await stack.enter_async_context(httpx.AsyncClient(timeout=5.0))
                load = from_url(issuer.jwks, client)
            trusted.append((issuer, Jwks(iss=issuer.iss, load=load, clock=clock)))
        yield Authenticator(
            tokens=TokenVerifier(trusted),
            keys=ApiKeyVerifier(directory=directory, clock=clock),
            clock=clock,
        )
