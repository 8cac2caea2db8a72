"""Who may issue tokens, for which tenants, and where its keys are."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import msgspec

from audit_contracts.principal import tenant_id

ANY_TENANT: Final = "*"


class Issuer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    One trusted issuer of JWTs.

    `iss` and `audience` must equal the claims of its tokens. `jwks` is where its keys are: `https://…` or `file:///…`.
    `tenants` lists the tenants that it may speak for; `["*"]` means all of them, the operator included.
    """

    iss: str
    audience: str
    jwks: str
    tenants: frozenset[str]

    def may_speak_for(self, tenant: str) -> bool:
        """Whether its tokens may name `tenant`."""
        return tenant in self.tenants or ANY_TENANT in self.tenants


def parse_issuers(text: str | bytes) -> tuple[Issuer, ...]:
    """
    A JSON list of issuers.

    Raises:
        ValueError: it isn't one, or an issuer of it is incomplete or stands there twice.
    """
    issuers = msgspec.json.decode(text, type=tuple[Issuer, ...])
    if len({issuer.iss for issuer in issuers}) != len(issuers):
        raise ValueError("two issuers have the same iss")
    for issuer in issuers:
        _check(issuer)
    return issuers


def _check(issuer: Issuer) -> None:
    if not issuer.iss or not issuer.audience:
        raise ValueError("an issuer needs an iss and an audience")
    if not issuer.tenants:
        raise ValueError(f'{issuer.iss} may speak for no tenant: list them, or ["*"] for all')
    for tenant in issuer.tenants - {ANY_TENANT}:
        tenant_id(tenant)
    url = urlsplit(issuer.jwks)
    if url.scheme == "file":
        if url.netloc or not url.path.startswith("/"):
            raise ValueError(f"{issuer.iss}: a key file is named as file:///absolute/path")
    elif url.scheme == "http":
        if url.hostname not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError(f"{issuer.iss}: keys may come by plain http from this machine alone; use https")
    elif url.scheme != "https" or not url.hostname:
        raise ValueError(f"{issuer.iss}: jwks must be an https:// or file:/// URL")
