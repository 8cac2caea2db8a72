"""Credentials that are genuine and still refused: these, unlike guesses, belong in the audit trail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from audit_contracts.errors import Forbidden, Unauthenticated
from audit_contracts.principal import Principal, TenantId


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """
    Who presented a genuine credential, as far as is known.

    `tenant` is None where the issuer may not speak for the tenant that the credential names.
    """

    issuer: str
    subject: str
    tenant: TenantId | None


class NotValidNow(Unauthenticated):
    """A genuine credential that is expired, revoked, not valid yet, or meant for somebody else."""

    def __init__(self, detail: str, identity: Identity) -> None:
        super().__init__(detail)
        self.identity = identity


class NotEntitled(Forbidden):
    """A genuine credential that names a tenant or claims rights which its issuer can't give."""

    def __init__(self, detail: str, identity: Identity) -> None:
        super().__init__(detail)
        self.identity = identity


class RefusedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """
    One refusal, after the credential's signature and issuer (or an API key's secret) had been verified.

    `principal` is set where the whole identity was good and only the right was missing; `route` is method and template,
    `problem` the slug of the answer's problem type.
    """

    identity: Identity
    principal: Principal | None
    route: str
    problem: str


OnRefused = Callable[[RefusedAttempt], Awaitable[None]]
"""Told of each refused attempt before its answer goes out; must not raise."""
