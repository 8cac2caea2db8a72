"""What every rate limiter promises: a rate in the long run, a burst at once, and all of a request or none."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerSecond
from limits.aio.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from audit_backends.rate_limiter import memory
from audit_backends.rate_limiter.memory import MemoryRateLimiter
from audit_contracts.ports.rate_limiter import Rate, RateLimiter
from audit_contracts.principal import TenantId
from tests.kit_world import ACME, GLOBEX, ManualClock

RATE = Rate(per_s=10, burst=100)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def limiter(clock: ManualClock) -> RateLimiter:
    return MemoryRateLimiter(clock=clock)


async def test_a_burst_goes_through_at_once_and_not_one_event_more(limiter: RateLimiter) -> None:
    first = await limiter.take(ACME, "ann", 60, RATE)
    second = await limiter.take(ACME, "ann", 40, RATE)
    third = await limiter.take(ACME, "ann", 1, RATE)
    assert (first.allowed, first.remaining, first.reset_s) == (True, 40, 0.0)
    assert (second.allowed, second.remaining) == (True, 0)
    assert (third.allowed, third.remaining) == (False, 0)
    assert third.reset_s > 0


async def test_what_does_not_fit_is_not_counted_in_part(limiter: RateLimiter) -> None:
    await limiter.take(ACME, "ann", 60, RATE)
    refused = await limiter.take(ACME, "ann", 41, RATE)
    assert (refused.allowed, refused.remaining) == (False, 40)
    assert (await limiter.take(ACME, "ann", 40, RATE)).allowed


async def test_more_than_the_burst_is_never_allowed(limiter: RateLimiter, clock: ManualClock) -> None:
    for _ in range(3):
        refused = await limiter.take(ACME, "ann", 101, RATE)
        assert (refused.allowed, refused.remaining, refused.reset_s) == (False, 100, math.inf)
        clock.advance(1000)


async def test_one_tenants_flood_leaves_another_alone(limiter: RateLimiter) -> None:
    while (await limiter.take(ACME, "ann", 100, RATE)).allowed:
        pass
    assert (await limiter.take(GLOBEX, "ann", 100, RATE)).remaining == 0


async def test_a_tenants_principals_share_its_rate(limiter: RateLimiter) -> None:
    assert (await limiter.take(ACME, "ann", 60, RATE)).allowed
    assert not (await limiter.take(ACME, "bob", 60, RATE)).allowed
    assert (await limiter.take(ACME, "bob", 40, RATE)).allowed


async def test_who_waits_as_told_gets_through_and_who_comes_sooner_does_not(
    limiter: RateLimiter, clock: ManualClock
) -> None:
    await limiter.take(ACME, "ann", 100, RATE)
    for events in (1, 7, 50, 100):
        refused = await limiter.take(ACME, "ann", events, RATE)
        assert not refused.allowed
        clock.advance(refused.reset_s - 0.2)
        assert not (await limiter.take(ACME, "ann", events, RATE)).allowed
        clock.advance(0.2 + 0.001)
        assert (await limiter.take(ACME, "ann", events, RATE)).allowed


@pytest.mark.parametrize("rate", [RATE, Rate(per_s=10, burst=10), Rate(per_s=10, burst=25), Rate(per_s=100, burst=40)])
async def test_in_the_long_run_it_is_the_rate(limiter: RateLimiter, clock: ManualClock, rate: Rate) -> None:
    taken = 0
    for _ in range(60 * 20):
        taken += (await limiter.take(ACME, "ann", 1, rate)).allowed
        taken += (await limiter.take(ACME, "ann", 1, rate)).allowed
        taken += (await limiter.take(ACME, "ann", 1, rate)).allowed
        clock.advance(0.05)
    sustained = min(rate.per_s, rate.burst)
    expected = 60 * min(sustained, 60)
    assert 0.9 * expected <= taken <= expected + rate.burst


@given(
    per_s=st.integers(1, 50),
    burst=st.integers(1, 200),
    calls=st.lists(st.tuples(st.integers(1, 60), st.floats(0, 3)), max_size=60),
)
async def test_no_second_ever_sees_more_than_two_bursts_and_the_rate(
    per_s: int, burst: int, calls: list[tuple[int, float]]
) -> None:
    """The library's counter takes the window before as spread evenly, so around its edge a little more may pass."""
    clock = ManualClock()
    limiter, rate = MemoryRateLimiter(clock=clock), Rate(per_s=per_s, burst=burst)
    taken: list[tuple[float, int]] = []
    for events, pause_s in calls:
        if (await limiter.take(ACME, "ann", events, rate)).allowed:
            taken.append((clock.monotonic_s(), events))
        clock.advance(pause_s)
    for start, _ in taken:
        within = sum(events for at, events in taken if start <= at < start + 1)
        assert within <= 2 * burst + per_s
    assert all(events <= burst for _, events in taken)


async def test_its_storage_is_one_that_the_library_can_use_with_any_strategy(clock: ManualClock) -> None:
    limiter = MemoryRateLimiter(clock=clock)
    storage, window = limiter._storage, RateLimitItemPerSecond(3, 10)
    fixed, sliding = FixedWindowRateLimiter(storage), SlidingWindowCounterRateLimiter(storage)
    for strategy in (fixed, sliding):
        assert [await strategy.hit(window, "ann") for _ in range(4)] == [True, True, True, False]
        await strategy.clear(window, "ann")
        assert await strategy.hit(window, "ann")
    clock.advance(20)
    assert await fixed.hit(window, "ann", cost=3)
    assert await storage.get_expiry(window.key_for("ann")) == clock.monotonic_s() + 10
    assert await storage.check()


async def test_what_is_counted_is_bounded_in_memory(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "COUNTERS_MAX", 10)
    limiter = MemoryRateLimiter(clock=clock)
    for number in range(100):
        await limiter.take(TenantId(f"t{number}"), "ann", 1, RATE)
    assert await limiter._storage.reset() == 10
    assert (await limiter.take(TenantId("t99"), "ann", 100, RATE)).allowed
