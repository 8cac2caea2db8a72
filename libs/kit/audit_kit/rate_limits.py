"""A tenant's rate limits at the HTTP wall: counted in events, told by the headers of the IETF draft."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from audit_contracts.errors import RateLimited, TooLarge
from audit_contracts.ports.rate_limiter import Rate, RateLimiter
from audit_contracts.ports.tenant_directory import Tenant
from audit_contracts.principal import Principal

POLICY: Final = "events"


class OverLimit(RateLimited):
    """The principal or its tenant is over the limit; `headers` go out with the answer."""

    def __init__(self, detail: str, *, retry_after_s: float, headers: Mapping[str, str]) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.headers = headers


class RateLimits:
    """The limits of each tenant, kept by `limiter`."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    async def take(self, tenant: Tenant, principal: Principal, events: int) -> Mapping[str, str]:
        """
        Count `events`, 1 or more, or none of them.

        Returns:
            `RateLimit` and `RateLimit-Policy` for the answer, by draft-ietf-httpapi-ratelimit-headers-10.

        Raises:
            OverLimit: they would be too many now.
            TooLarge: they are more than the burst, and would be too many at any time.
        """
        rate = Rate(per_s=tenant.limits.events_per_s, burst=tenant.limits.burst_events)
        if events > rate.burst:
            raise TooLarge(f"{events} events at once are more than the burst of {rate.burst} that the tenant may send")
        allowance = await self._limiter.take(tenant.tenant_id, principal.name, events, rate)
        headers = _headers(rate, allowance.remaining, allowance.reset_s)
        if not allowance.allowed:
            detail = f"over the limit of {rate.per_s} events a second"
            raise OverLimit(detail, retry_after_s=allowance.reset_s, headers=headers)
        return headers


def _headers(rate: Rate, remaining: int, reset_s: float) -> Mapping[str, str]:
    window_s = max(1, math.ceil(rate.burst / rate.per_s))
    left = f'"{POLICY}";r={remaining}'
    return {
        "RateLimit-Policy": f'"{POLICY}";q={rate.burst};qu="events";w={window_s}',
        "RateLimit": f"{left};t={math.ceil(reset_s)}" if reset_s > 0 else left,
    }
