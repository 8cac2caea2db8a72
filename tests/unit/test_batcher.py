"""The micro-batcher in front of the real embedded queue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from audit_contracts.errors import NotFound, QueueFull, QueueUnavailable, SendUnknown, TooLarge
from audit_contracts.event import Event
from audit_contracts.principal import TenantId
from audit_kit.batcher import SHARED_FLIGHTS_MAX, Batcher
from audit_kit.packing import Placement
from tests.events import an_event
from tests.ingest_world import Fault, IngestWorld, ingest_world
from tests.services import Database

NewBatcher = Callable[..., Batcher]


@pytest.fixture(scope="module")
async def opened(module_database: Database) -> AsyncIterator[IngestWorld]:
    async with ingest_world(module_database) as opened:
        yield opened


@pytest.fixture
def world(opened: IngestWorld) -> IngestWorld:
    return opened.with_new_queue()


@pytest.fixture
async def new_batcher(world: IngestWorld) -> AsyncIterator[NewBatcher]:
    made: list[Batcher] = []

    def new(**settings: Any) -> Batcher:
        made.append(world.new_batcher(**settings))
        return made[-1]

    yield new
    world.queue.passing.set()
    for batcher in made:
        await batcher.close()


def noise(kib: int) -> bytes:
    """JSON that does not compress."""
    return b'{"metadata":"%s"}' % os.urandom(kib * 512).hex().encode()


def ids(events: list[Event]) -> list[str]:
    return [event.resource_id for event in events]


async def test_one_post_departs_at_once_and_is_durable_when_put_returns(
    world: IngestWorld, new_batcher: NewBatcher
) -> None:
    tenant, event = await world.new_tenant(), an_event()
    (placement,) = await new_batcher().put(tenant, [event])
    (batch,) = await world.drain(tenant)
    assert batch.events == [event]
    assert placement == Placement(batch.head.batch_id, 0, 1)
    assert batch.head.made_at_us == world.clock.now_us()


async def test_posts_of_one_turn_share_a_batch_and_each_is_told_its_ordinals(
    world: IngestWorld, new_batcher: NewBatcher
) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    await world.keyring.transport_key(tenant)
    placed = await asyncio.gather(
        batcher.put(tenant, [an_event(resource_id="a")]),
        batcher.put(tenant, [an_event(resource_id="b"), an_event(resource_id="c")]),
        batcher.put(tenant, [an_event(resource_id="d")]),
    )
    (batch,) = await world.drain(tenant)
    assert ids(batch.events) == ["a", "b", "c", "d"]
    assert [(place.first, place.count) for (place,) in placed] == [(0, 1), (1, 2), (3, 1)]


async def test_posts_wait_for_company_while_a_flight_is_up_and_depart_when_it_lands(
    world: IngestWorld, new_batcher: NewBatcher
) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    world.queue.passing.clear()
    first = asyncio.create_task(batcher.put(tenant, [an_event()]))
    await world.queue.until_sends(1)
    others = [asyncio.create_task(batcher.put(tenant, [an_event()])) for _ in range(5)]
    world.queue.passing.set()
    await asyncio.gather(first, *others)
    assert [len(batch.events) for batch in await world.drain(tenant)] == [1, 5]


async def test_posts_linger_no_longer_than_told_while_a_flight_is_up(
    world: IngestWorld, new_batcher: NewBatcher
) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher(linger_s=0.001)
    world.queue.passing.clear()
    posts = []
    for flights in range(1, SHARED_FLIGHTS_MAX + 1):
        posts.append(asyncio.create_task(batcher.put(tenant, [an_event()])))
        await world.queue.until_sends(flights)
    world.queue.passing.set()
    await asyncio.gather(*posts)
    assert len(await world.drain(tenant)) == SHARED_FLIGHTS_MAX


async def test_two_tenants_never_share_a_batch_but_share_a_send(world: IngestWorld, new_batcher: NewBatcher) -> None:
    one, other, batcher = await world.new_tenant(), await world.new_tenant(), new_batcher()
    for tenant in (one, other):
        await world.keyring.transport_key(tenant)
    await asyncio.gather(batcher.put(one, [an_event()]), batcher.put(other, [an_event()]))
    ((first, second),) = world.queue.sends
    assert {first.tenant, second.tenant} == {one, other}
    assert first.batch_id != second.batch_id


async def test_a_large_post_is_split_into_messages_that_fit_in_order(
    world: IngestWorld, new_batcher: NewBatcher
) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    world.queue.message_bytes_max = 64 * 1024
    events = [an_event(resource_id=str(i), content=noise(5)) for i in range(100)]
    placed = await batcher.put(tenant, events)
    batches = await world.drain(tenant)
    assert all(len(batch.body) <= 64 * 1024 for batch in batches)
    assert [event for batch in batches for event in batch.events] == events
    assert list(placed) == [Placement(batch.head.batch_id, 0, len(batch.events)) for batch in batches]
    assert len(world.queue.sends) == 1


async def test_a_batch_holds_no_more_events_than_the_codec_allows(world: IngestWorld, new_batcher: NewBatcher) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    world.queue.message_bytes_max = 64 * 1024 * 1024
    event = an_event()
    placed = await batcher.put(tenant, [event] * 10_001)
    assert [place.count for place in placed] == [10_000, 1]


async def test_an_event_that_fits_no_message_is_refused_alone_and_nothing_of_its_post_is_sent(
    world: IngestWorld, new_batcher: NewBatcher
) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    await world.keyring.transport_key(tenant)
    world.queue.message_bytes_max = 4 * 1024
    small, large, mixed = await asyncio.gather(
        batcher.put(tenant, [an_event(resource_id="small")]),
        batcher.put(tenant, [an_event(content=noise(8))]),
        batcher.put(tenant, [an_event(resource_id="beside"), an_event(content=noise(8))]),
        return_exceptions=True,
    )
    assert isinstance(large, TooLarge)
    assert isinstance(mixed, TooLarge)
    assert not isinstance(small, BaseException)
    assert ids(await world.events(tenant)) == ["small"]


async def test_a_queue_that_refuses_is_told_and_nothing_is_acknowledged(
    world: IngestWorld, new_batcher: NewBatcher
) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    world.queue.faults.append(Fault.REFUSED)
    with pytest.raises(QueueUnavailable):
        await batcher.put(tenant, [an_event()])
    assert await world.events(tenant) == []
    await batcher.put(tenant, [an_event()])


async def test_a_post_of_which_a_part_was_refused_is_not_acknowledged(
    world: IngestWorld, new_batcher: NewBatcher
) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    world.queue.message_bytes_max = 64 * 1024
    world.queue.faults.append([None, Fault.REFUSED])
    with pytest.raises(QueueUnavailable):
        await batcher.put(tenant, [an_event(content=noise(100)) for _ in range(2)])
    assert len(await world.events(tenant)) == 1


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.UNKNOWN])
async def test_an_unknown_outcome_is_resent_as_the_identical_message(
    world: IngestWorld, new_batcher: NewBatcher, fault: Fault
) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    world.queue.faults.append(fault)
    (placement,) = await batcher.put(tenant, [an_event()])
    first, second = world.queue.sends
    assert first == second
    assert {batch.head.batch_id for batch in await world.drain(tenant)} == {placement.batch_id}


async def test_a_refusal_after_an_unknown_outcome_stays_unknown(world: IngestWorld, new_batcher: NewBatcher) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    world.queue.faults.extend([Fault.UNKNOWN, Fault.REFUSED, Fault.REFUSED])
    with pytest.raises(SendUnknown):
        await batcher.put(tenant, [an_event()])
    assert len(world.queue.sends) == 3


async def test_what_is_held_is_bounded_for_a_tenant_and_for_all(world: IngestWorld, new_batcher: NewBatcher) -> None:
    tenants = [await world.new_tenant() for _ in range(4)]
    for tenant in tenants:
        await world.keyring.transport_key(tenant)
    batcher = new_batcher(held_bytes_max=4 * 1024 * 1024)
    world.queue.passing.clear()
    flying = [asyncio.create_task(batcher.put(tenant, [an_event(content=noise(1536))])) for tenant in tenants[:2]]
    await world.queue.until_sends(2)
    with pytest.raises(QueueFull, match="this tenant"):
        await batcher.put(tenants[0], [an_event(content=noise(1536))])
    with pytest.raises(QueueFull, match="too much is on its way"):
        await batcher.put(tenants[2], [an_event(content=noise(1536))])
    small = asyncio.create_task(batcher.put(tenants[3], [an_event()]))
    world.queue.passing.set()
    await asyncio.gather(*flying, small)
    await batcher.put(tenants[0], [an_event(content=noise(1536))])


async def test_who_goes_away_takes_nothing_from_those_who_stay(world: IngestWorld, new_batcher: NewBatcher) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    await world.keyring.transport_key(tenant)
    world.queue.passing.clear()
    gone = asyncio.create_task(batcher.put(tenant, [an_event(resource_id="gone")]))
    stays = asyncio.create_task(batcher.put(tenant, [an_event(resource_id="stays")]))
    await world.queue.until_sends(1)
    gone.cancel()
    world.queue.passing.set()
    (placement,) = await stays
    (batch,) = await world.drain(tenant)
    assert batch.events[placement.first].resource_id == "stays"


async def test_close_sends_what_is_held_answers_all_and_takes_nothing_more(
    world: IngestWorld, new_batcher: NewBatcher
) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    world.queue.passing.clear()
    posts = [asyncio.create_task(batcher.put(tenant, [an_event()]))]
    await world.queue.until_sends(1)
    posts += [asyncio.create_task(batcher.put(tenant, [an_event()])) for _ in range(3)]
    posts.append(asyncio.create_task(batcher.put(tenant, [an_event(content=noise(100))])))
    closing = asyncio.create_task(batcher.close())
    await world.queue.until_sends(3)
    with pytest.raises(QueueFull, match="stopping"):
        await batcher.put(tenant, [an_event()])
    assert not any(post.done() for post in [*posts, closing])
    world.queue.passing.set()
    await closing
    await asyncio.gather(*posts)
    assert len(await world.events(tenant)) == 5


async def test_a_tenant_without_keys_is_told_and_delays_nobody(world: IngestWorld, new_batcher: NewBatcher) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()
    nobody, somebody = await asyncio.gather(
        batcher.put(TenantId("nobody"), [an_event()]), batcher.put(tenant, [an_event()]), return_exceptions=True
    )
    assert isinstance(nobody, NotFound)
    assert not isinstance(somebody, BaseException)


async def test_an_error_of_the_queue_itself_reaches_everybody_who_waits(
    world: IngestWorld, new_batcher: NewBatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, batcher = await world.new_tenant(), new_batcher()

    async def broken(messages: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(world.queue, "send", broken)
    with pytest.raises(RuntimeError, match="broken"):
        await batcher.put(tenant, [an_event()])
