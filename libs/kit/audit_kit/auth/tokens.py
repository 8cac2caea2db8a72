"""
JWTs by RFC 8725: asymmetric algorithms by allow-list, keys of configured issuers alone, every claim checked.

What a token says about where its key is (`jku`, `x5u`, `jwk`, `x5c`) is never looked at.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jwt
import msgspec
from jwt.exceptions import InvalidSubjectError

from audit_contracts import strict_json
from audit_contracts.errors import InvalidEntry, Unauthenticated
from audit_contracts.masking_policy import HASH_MARKER
from audit_contracts.principal import (
    SUBJECT_CHARS_MAX,
    DataScope,
    Permission,
    Principal,
    Role,
    TenantId,
    permissions_of,
    tenant_id,
)
from audit_kit.auth.attempts import Identity, NotEntitled, NotValidNow
from audit_kit.auth.issuers import Issuer
from audit_kit.auth.jwks import ALGORITHMS, Jwks

TOKEN_BYTES_MAX: Final = 8 * 1024
LEEWAY_S: Final = 30
KID_CHARS_MAX: Final = 256

_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_DATA_SCOPE: Final = frozenset({"resource_types", "severities", "sources"})
# What PyJWT raises once the signature was found good, and at no other time.
_SIGNED_BUT_WRONG: Final = (
    jwt.ExpiredSignatureError,
    jwt.ImmatureSignatureError,
    jwt.InvalidAudienceError,
    jwt.InvalidIssuedAtError,
    jwt.InvalidIssuerError,
    InvalidSubjectError,
    jwt.MissingRequiredClaimError,
)
_NUMERIC_DATES: Final = ("exp", "iat", "nbf")


class Verified(msgspec.Struct, frozen=True):
    """A principal, and the time (seconds since 1970) at which its token ends."""

    principal: Principal
    expires_at_s: float


class TokenVerifier:
    """Tokens of any of `issuers`, each with its keys."""

    def __init__(self, issuers: Sequence[tuple[Issuer, Jwks]]) -> None:
        self._issuers: Mapping[str, tuple[Issuer, Jwks]] = {issuer.iss: (issuer, keys) for issuer, keys in issuers}

    async def verify(self, token: str) -> Verified:
        """
        Who `token` stands for.

        Raises:
            Unauthenticated: it isn't a token of a trusted issuer (`NotValidNow`: it is, but not valid here and now).
            NotEntitled: it is genuine, and names a tenant that its issuer may not speak for.
            KeyUnavailable: the issuer's keys can't be had.
        """
        if len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated(f"the token is longer than {TOKEN_BYTES_MAX} bytes")
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise Unauthenticated("the credential is neither a signed JWT nor an API key")
        kid, algorithm = _checked_header(_json_object(match[1]))
        claims = _json_object(match[2])
        iss = claims.get("iss")
        if not isinstance(iss, str) or iss not in self._issuers:
            raise Unauthenticated("the token's issuer isn't trusted here")
        issuer, keys = self._issuers[iss]
        key = await keys.key(kid, algorithm)
        _verify(token, key, algorithm, issuer, claims)
        return Verified(_principal(issuer, claims), float(claims["exp"]))


def _checked_header(header: Mapping[str, Any]) -> tuple[str | None, str]:
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise Unauthenticated("the token must be signed with RS256, ES256 or EdDSA")
    if not isinstance(typ, str) or typ.lower() not in _TYPES:
        raise Unauthenticated("the token's typ must be at+jwt or JWT")
    if "crit" in header or "b64" in header:
        raise Unauthenticated("the token demands an extension that isn't known here")
    if not isinstance(kid, str | None) or (kid is not None and len(kid) > KID_CHARS_MAX):
        raise Unauthenticated("the token's kid isn't the name of a key")
    return kid, algorithm


def _verify(token: str, key: jwt.PyJWK, algorithm: str, issuer: Issuer, claims: Mapping[str, Any]) -> None:
    try:
        jwt.decode(
            token,
            key=key,
            algorithms=[algorithm],
            audience=issuer.audience,
            issuer=issuer.iss,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
    except _SIGNED_BUT_WRONG as exc:
        raise NotValidNow(_reason(exc), _identity(issuer, claims)) from exc
    except jwt.PyJWTError as exc:
        raise Unauthenticated("the token's signature is wrong") from exc
    if any(type(claims[name]) not in (int, float) for name in _NUMERIC_DATES if name in claims):
        raise NotValidNow("the token's exp, iat and nbf must be numbers", _identity(issuer, claims))


def _reason(exc: jwt.PyJWTError) -> str:
    match exc:
        case jwt.ExpiredSignatureError():
            return "the token has expired"
        case jwt.ImmatureSignatureError():
            return "the token isn't valid yet"
        case jwt.InvalidAudienceError():
            return "the token is meant for another audience"
        case jwt.MissingRequiredClaimError():
            return f"the token lacks the claim {exc.claim}"
        case _:
            return "a claim of the token is malformed"


def _principal(issuer: Issuer, claims: Mapping[str, Any]) -> Principal:
    identity = _identity(issuer, claims)
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_CHARS_MAX or not subject.isprintable():
        raise NotValidNow(f"the token's sub must be 1 to {SUBJECT_CHARS_MAX} printable characters", identity)
    if HASH_MARKER in subject:
        raise NotValidNow(f"the token's sub must not look like a masked value ({HASH_MARKER}…)", identity)
    try:
        tenant = tenant_id(claims["tenant_id"])
        role = Role(claims["access_level"])
        scope = _scope(claims)
        data_scope = _data_scope(claims)
    except (KeyError, TypeError, ValueError) as exc:
        detail = "the token's tenant_id, access_level, scope or data_scope is missing or wrong"
        raise NotValidNow(detail, identity) from exc
    if not issuer.may_speak_for(tenant):
        raise NotEntitled("the token's issuer may not speak for this tenant", identity)
    return Principal(
        tenant=tenant,
        issuer=issuer.iss,
        subject=subject,
        role=role,
        permissions=narrowed(tenant, role, scope),
        data_scope=data_scope,
        own_entries_of=subject if role is Role.USER else None,
    )


def narrowed(tenant: TenantId, role: Role, scope: frozenset[str] | None) -> frozenset[Permission]:
    """What is left of the role's permissions under `scope`; None leaves all, a scope that names none leaves none."""
    held = permissions_of(tenant, role)
    return held if scope is None else frozenset(permission for permission in held if permission.value in scope)


def _scope(claims: Mapping[str, Any]) -> frozenset[str] | None:
    scope = claims.get("scope")
    if scope is None:
        return None
    if not isinstance(scope, str):
        raise TypeError("scope is a string of words, RFC 9068 section 2.2.3")
    return frozenset(scope.split())


def _data_scope(claims: Mapping[str, Any]) -> DataScope:
    """Narrowing that isn't understood must not be dropped, so an unknown member is an error."""
    scope = claims.get("data_scope", {})
    if not isinstance(scope, dict) or not _DATA_SCOPE.issuperset(scope):
        raise ValueError("data_scope may have resource_types, severities and sources")
    for values in scope.values():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError("a data scope is a list of strings")
    return DataScope(**{name: frozenset(values) for name, values in scope.items()})


def _identity(issuer: Issuer, claims: Mapping[str, Any]) -> Identity:
    """Who a signed token speaks for, from claims that may yet be malformed."""
    subject, tenant = claims.get("sub"), claims.get("tenant_id")
    speaks_for: TenantId | None = None
    if isinstance(tenant, str) and issuer.may_speak_for(tenant):
        try:
            speaks_for = tenant_id(tenant)
        except ValueError:
            speaks_for = None
    shown = subject[:SUBJECT_CHARS_MAX] if isinstance(subject, str) and subject.isprintable() else ""
    return Identity(issuer=issuer.iss, subject=shown, tenant=speaks_for)


def _json_object(segment: str) -> Mapping[str, Any]:
    """
    One part of a token as a JSON object, read as strictly as an entry.

    Two readers of `{"a": 1, "a": 2}` may see different values, and that is how a check is passed by.
    """
    try:
        parsed = strict_json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (binascii.Error, InvalidEntry) as exc:
        raise Unauthenticated("the token isn't well-formed") from exc
    if not isinstance(parsed, dict):
        raise Unauthenticated("the token isn't well-formed")
    return parsed
