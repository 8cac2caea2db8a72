"""Rate limits of one process, by the `limits` library's sliding window counter."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage.base import SlidingWindowCounterSupport, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from audit_contracts.ports.clock import Clock
from audit_contracts.ports.rate_limiter import Allowance, Rate
from audit_contracts.principal import TenantId

COUNTERS_MAX: Final = 100_000
"""Counters kept, at about 300 bytes each: two windows of 50,000 tenants."""


class MemoryRateLimiter:
    """
    A `RateLimiter` that counts in memory: each process of a fleet lets through the whole rate.

    The library has no token bucket. Rate and burst become windows instead: `per_s · W` events in any W seconds, with W
    so long that the burst fits, and where that is more than the burst, `burst` in any second. What is let through is
    never more; a burst spent at once is given back within W seconds, at the rate.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._storage = _Storage(clock)
        self._strategy = SlidingWindowCounterRateLimiter(self._storage)

    async def take(self, tenant: TenantId, principal: str, events: int, rate: Rate) -> Allowance:
        """
        Count against the tenant and with it against the principal. Promises what the port does.

        Both have the one rate, and a tenant's count holds those of its principals: the tenant's is the one that binds
        and the only one that need be kept.
        """
        if events > rate.burst:
            return Allowance(allowed=False, remaining=self._remaining(tenant, rate), reset_s=math.inf)
        first, *others = _windows(rate)
        # Nothing here waits, so nobody else comes between the tests and the hits.
        allowed = all([await self._strategy.test(window, tenant, cost=events) for window in others])
        allowed = allowed and await self._strategy.hit(first, tenant, cost=events)
        if not allowed:
            waits = [await self._wait_s(window, tenant, events) for window in (first, *others)]
            return Allowance(allowed=False, remaining=self._remaining(tenant, rate), reset_s=max(waits))
        for window in others:
            await self._strategy.hit(window, tenant, cost=events)
        return Allowance(allowed=True, remaining=self._remaining(tenant, rate), reset_s=0.0)

    def _remaining(self, tenant: TenantId, rate: Rate) -> int:
        # What the strategy's `get_window_stats` answers, in a fifth of its time.
        return max(
            0,
            min(
                window.amount - self._storage.weighed(window.key_for(tenant), window.get_expiry())
                for window in _windows(rate)
            ),
        )

    async def _wait_s(self, window: RateLimitItem, key: str, events: int) -> float:
        """Seconds until `events`, at most the window's amount, fit into it; 0 if they do now."""
        room, length = window.amount - events, window.get_expiry()
        before, before_left_s, current, current_left_s = await self._storage.get_sliding_window(
            window.key_for(key), length
        )
        # The library counts `before * before_left / length + current`, and rounds down.
        if math.floor(before * before_left_s / length + current) <= room:
            return 0.0
        if current <= room:
            return before_left_s - (room - current) * length / before
        # In this window never again; in the next one this window's count fades in its turn.
        return current_left_s - room * length / current


@lru_cache(maxsize=4096)
def _windows(rate: Rate) -> Sequence[RateLimitItem]:
    length_s = max(1, math.ceil(rate.burst / rate.per_s))
    windows: list[RateLimitItem] = [RateLimitItemPerSecond(rate.per_s * length_s, length_s)]
    if rate.burst < rate.per_s * length_s:
        windows.append(RateLimitItemPerSecond(rate.burst, 1))
    return windows


class _Storage(Storage, SlidingWindowCounterSupport):
    """
    Counters with an end, bounded in number, on the house's clock.

    The library's own memory storage walks all keys after every hit (16 µs a hit with 10 keys, 113 µs with 1,000), which
    would make each tenant slow down all others. Here the oldest counter goes when there are too
    many; nothing is ever walked.
    """

    STORAGE_SCHEME = None

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._counters: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def base_exceptions(self) -> type[Exception]:
        """What the library would wrap; nothing here raises."""
        return MemoryError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a counter; a new one ends after `expiry` seconds. Answers what it then is."""
        return self._add(key, expiry, amount)

    async def get(self, key: str) -> int:
        """What a counter is; 0 where there is none."""
        return self._count(key, self._clock.monotonic_s())

    async def get_expiry(self, key: str) -> float:
        """When a counter ends, on the monotonic clock."""
        return self._counters.get(key, (0, self._clock.monotonic_s()))[1]

    async def check(self) -> bool:
        """Memory is always there."""
        return True

    async def reset(self) -> int:
        """Forget all counters. Answers how many there were."""
        count = len(self._counters)
        self._counters.clear()
        return count

    async def clear(self, key: str) -> None:
        """Forget one counter."""
        self._counters.pop(key, None)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` where the weighted count stays within the limit."""
        before, before_left_s, current, _ = self._window(key, expiry)
        if math.floor(before * before_left_s / expiry + current) + amount > limit:
            return False
        self._add(self._keys(key, expiry)[1], 2 * expiry, amount)
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Count of the window before and seconds until it fades out; count of this one, and when it will have faded."""
        return self._window(key, expiry)

    def weighed(self, key: str, expiry: int) -> int:
        """Count of this window and of what is left of the one before, as the library weighs it, and rounds down."""
        before, before_left_s, current, _ = self._window(key, expiry)
        return math.floor(before * before_left_s / expiry + current)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget both windows."""
        for window_key in self._keys(key, expiry):
            await self.clear(window_key)

    def _keys(self, key: str, expiry: int) -> tuple[str, str]:
        number = int(self._clock.monotonic_s() // expiry)
        return f"{key}/{number - 1}", f"{key}/{number}"

    def _add(self, key: str, expiry: float, amount: int) -> int:
        now = self._clock.monotonic_s()
        count, ends_at = self._counters.pop(key, (0, now + expiry))
        if ends_at <= now:
            count, ends_at = 0, now + expiry
        self._counters[key] = (count + amount, ends_at)
        if len(self._counters) > COUNTERS_MAX:
            self._counters.popitem(last=False)
        return count + amount

    def _count(self, key: str, now: float) -> int:
        count, ends_at = self._counters.get(key, (0, 0.0))
        return count if now < ends_at else 0

    def _window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        now = self._clock.monotonic_s()
        before_key, current_key = self._keys(key, expiry)
        left_s = expiry - now % expiry
        before = self._count(before_key, now)
        return before, left_s if before else 0.0, self._count(current_key, now), left_s + expiry
