"""Tenants and keys are remembered for seconds, read once for many, and never stale beyond the bound."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from audit_contracts.errors import DirectoryUnavailable, NotFound, RateLimited
from audit_contracts.ports.tenant_directory import ApiKey, Tenant, TenantStatus
from audit_contracts.principal import TenantId
from audit_kit import directory as subject
from audit_kit.directory import CACHED_FOR_S, UNKNOWN_BURST, UNKNOWN_PER_S, CachedDirectory
from tests.kit_world import ACME, GLOBEX, Directory, ManualClock, tenant


class SlowDirectory(Directory):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__([tenant(ACME)])
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self.is_down = False

    async def tenant(self, tenant: TenantId) -> Tenant:
        self.asked.set()
        found = await super().tenant(tenant)
        await self.go.wait()
        if self.is_down:
            raise DirectoryUnavailable("down")
        return found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_a_tenant_is_read_once_in_its_time(clock: ManualClock) -> None:
    below = Directory([tenant(ACME), tenant(GLOBEX)])
    cached = CachedDirectory(below, clock=clock)
    for _ in range(5):
        assert (await cached.tenant(ACME)).tenant_id == ACME
    assert (await cached.tenant(GLOBEX)).tenant_id == GLOBEX
    assert below.reads == 2
    below.tenants[ACME] = tenant(ACME, status=TenantStatus.SUSPENDED)
    clock.advance(CACHED_FOR_S)
    assert (await cached.tenant(ACME)).status is TenantStatus.SUSPENDED


async def test_many_who_ask_together_share_one_read(clock: ManualClock) -> None:
    below = SlowDirectory()
    cached = CachedDirectory(below, clock=clock)
    asking = [asyncio.create_task(cached.tenant(ACME)) for _ in range(50)]
    await below.asked.wait()
    below.go.set()
    assert {found.tenant_id for found in await asyncio.gather(*asking)} == {ACME}
    assert below.reads == 1


async def test_one_who_leaves_takes_nobody_along(clock: ManualClock) -> None:
    below = SlowDirectory()
    cached = CachedDirectory(below, clock=clock)
    leaver, stayer = (asyncio.create_task(cached.tenant(ACME)) for _ in range(2))
    await below.asked.wait()
    leaver.cancel()
    below.go.set()
    assert (await stayer).tenant_id == ACME


async def test_an_absence_is_remembered_shortly(clock: ManualClock) -> None:
    below = Directory()
    cached = CachedDirectory(below, clock=clock)
    for _ in range(3):
        with pytest.raises(NotFound):
            await cached.tenant(ACME)
    assert below.reads == 1
    below.tenants[ACME] = tenant(ACME)
    clock.advance(subject.MISSING_FOR_S)
    assert (await cached.tenant(ACME)).tenant_id == ACME


async def test_a_failure_is_not_remembered_and_nothing_stale_stands_in(clock: ManualClock) -> None:
    below = SlowDirectory()
    below.go.set()
    cached = CachedDirectory(below, clock=clock)
    await cached.tenant(ACME)
    below.is_down = True
    await cached.tenant(ACME)
    clock.advance(CACHED_FOR_S)
    with pytest.raises(DirectoryUnavailable):
        await cached.tenant(ACME)
    below.is_down = False
    assert (await cached.tenant(ACME)).tenant_id == ACME


async def test_what_was_read_before_a_change_is_not_kept_after_it(clock: ManualClock) -> None:
    below = SlowDirectory()
    cached = CachedDirectory(below, clock=clock)
    asking = asyncio.create_task(cached.tenant(ACME))
    await below.asked.wait()
    below.tenants[ACME] = tenant(ACME, status=TenantStatus.SUSPENDED)
    cached.forget(ACME)
    below.go.set()
    assert (await asking).status is TenantStatus.ACTIVE, "who asked before the change may see the time before it"
    assert (await cached.tenant(ACME)).status is TenantStatus.SUSPENDED


async def test_forgetting_one_tenant_leaves_the_others(clock: ManualClock) -> None:
    below = Directory([tenant(ACME), tenant(GLOBEX)])
    cached = CachedDirectory(below, clock=clock)
    for name in (ACME, GLOBEX):
        await cached.tenant(name)
    cached.forget(ACME)
    for name in (ACME, GLOBEX):
        await cached.tenant(name)
    assert below.reads == 3


async def test_lookups_of_unknown_keys_are_bounded_even_all_at_once(clock: ManualClock) -> None:
    below = Directory()
    cached = CachedDirectory(below, clock=clock)
    asking = [cached.api_key(ACME, uuid4()) for _ in range(3 * UNKNOWN_BURST)]
    outcomes = [type(outcome) for outcome in await asyncio.gather(*asking, return_exceptions=True)]
    assert (outcomes.count(NotFound), outcomes.count(RateLimited)) == (UNKNOWN_BURST, 2 * UNKNOWN_BURST)
    clock.advance(1)
    asking = [cached.api_key(ACME, uuid4()) for _ in range(UNKNOWN_BURST)]
    outcomes = [type(outcome) for outcome in await asyncio.gather(*asking, return_exceptions=True)]
    assert outcomes.count(NotFound) == UNKNOWN_PER_S


async def test_an_outage_is_nobodys_guess(clock: ManualClock) -> None:
    class Down(Directory):
        async def api_key(self, tenant: TenantId, key_id: object) -> ApiKey:
            raise DirectoryUnavailable("down")

    cached = CachedDirectory(Down(), clock=clock)
    for _ in range(2 * UNKNOWN_BURST):
        with pytest.raises(DirectoryUnavailable):
            await cached.api_key(ACME, uuid4())


async def test_what_is_remembered_is_bounded(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "CACHED_MAX", 10)
    below = Directory([tenant(TenantId(f"t{number}")) for number in range(20)])
    cached = CachedDirectory(below, clock=clock)
    for number in range(20):
        await cached.tenant(TenantId(f"t{number}"))
    await cached.tenant(TenantId("t19"))
    assert below.reads == 20
    await cached.tenant(TenantId("t0"))
    assert below.reads == 21


@pytest.mark.parametrize("cached_for_s", [0, -1, 30.1])
def test_nothing_is_remembered_for_longer_than_the_contract_allows(clock: ManualClock, cached_for_s: float) -> None:
    with pytest.raises(ValueError, match="30 seconds"):
        CachedDirectory(Directory(), clock=clock, cached_for_s=cached_for_s)


async def test_whether_it_is_development_is_asked_below(clock: ManualClock) -> None:
    assert not await CachedDirectory(Directory(), clock=clock).is_development()
