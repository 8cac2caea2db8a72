"""How many events a tenant and a principal may send: a token bucket's promise, whatever keeps the count."""

from __future__ import annotations

from typing import Protocol

import msgspec

from audit_contracts.principal import TenantId


class Rate(msgspec.Struct, frozen=True):
    """`per_s` events a second in the long run, up to `burst` at once."""

    per_s: int
    burst: int


class Allowance(msgspec.Struct, frozen=True):
    """The answer to a request: whether it is let through, what is left of the burst, when more will be."""

    allowed: bool
    remaining: int
    reset_s: float


class RateLimiter(Protocol):
    """Counts events by tenant and principal."""

    async def take(self, tenant: TenantId, principal: str, events: int, rate: Rate) -> Allowance:
        """
        Count `events` (1 or more) against the principal, or none of them where they don't fit.

        A request of more events than `rate.burst` is never allowed. `reset_s` is the time in seconds until `events`
        would fit, 0 where they did.
        """
