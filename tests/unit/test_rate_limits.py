"""The headers of the IETF draft, and what is answered over the limit."""

from __future__ import annotations

import pytest

from audit_backends.rate_limiter.memory import MemoryRateLimiter
from audit_contracts.errors import TooLarge
from audit_contracts.ports.tenant_directory import TenantLimits
from audit_contracts.principal import Principal, Role
from audit_kit.problems import problem_of
from audit_kit.rate_limits import OverLimit, RateLimits
from tests.kit_world import ACME, ManualClock, tenant

OWNER = tenant(ACME, limits=TenantLimits(events_per_s=10, burst_events=100))
ANN = Principal(tenant=ACME, issuer="key", subject="ann", role=Role.PRODUCER, permissions=frozenset())


@pytest.fixture
def limits() -> RateLimits:
    return RateLimits(MemoryRateLimiter(clock=ManualClock()))


async def test_each_answer_tells_the_policy_and_what_is_left(limits: RateLimits) -> None:
    assert await limits.take(OWNER, ANN, 30) == {
        "RateLimit-Policy": '"events";q=100;qu="events";w=10',
        "RateLimit": '"events";r=70',
    }


async def test_over_the_limit_is_429_with_its_headers(limits: RateLimits) -> None:
    await limits.take(OWNER, ANN, 100)
    with pytest.raises(OverLimit) as caught:
        await limits.take(OWNER, ANN, 10)
    problem = problem_of(caught.value)
    assert problem.kind.status == 429
    wait_s = int(problem.headers["Retry-After"])
    assert 1 <= wait_s <= 20
    assert problem.headers["RateLimit"] == f'"events";r=0;t={wait_s}'
    assert problem.headers["RateLimit-Policy"].startswith('"events";q=100')


async def test_more_than_the_burst_is_too_large_rather_than_too_early(limits: RateLimits) -> None:
    with pytest.raises(TooLarge, match="101 events at once"):
        await limits.take(OWNER, ANN, 101)
