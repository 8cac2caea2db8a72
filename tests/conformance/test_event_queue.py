"""What every event queue promises."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from audit_contracts.errors import QueueFull
from audit_contracts.ports.event_queue import Delivery, EventQueue, Message
from audit_contracts.principal import TenantId
from tests.backends import EVENT_QUEUES, OpenQueue
from tests.services import Database

ACME, GLOBEX = TenantId("acme"), TenantId("globex")


@pytest.fixture(params=EVENT_QUEUES)
async def queue(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[OpenQueue]:
    async with EVENT_QUEUES[request.param](database, queue_bytes_max=1_000_000) as opened:
        yield opened


def message(tenant: TenantId = ACME, body: bytes = b"sealed") -> Message:
    return Message(tenant, uuid.uuid4(), body)


async def take(queue: EventQueue, *, most: int = 100, visibility_s: float = 60.0) -> list[Delivery]:
    return list(await queue.receive(messages_max=most, wait_s=0, visibility_s=visibility_s))


async def test_what_was_sent_is_received_as_it_was(queue: OpenQueue) -> None:
    bodies = [bytes([i]) * (i + 1) for i in range(40)]
    assert await queue.sender.send([message(body=body) for body in bodies]) == [None] * 40

    deliveries = await take(queue.receiver)

    assert Counter(d.body for d in deliveries) == Counter(bodies)
    assert {d.tenant for d in deliveries} == {ACME}
    assert {d.receives for d in deliveries} == {1}


async def test_the_longest_message_passes(queue: OpenQueue) -> None:
    body = b"x" * queue.sender.message_bytes_max
    assert await queue.sender.send([message(body=body)]) == [None]
    assert [d.body for d in await take(queue.receiver)] == [body]


async def test_what_is_in_hand_is_hidden_from_others(queue: OpenQueue) -> None:
    await queue.sender.send([message() for _ in range(10)])
    first, second = await asyncio.gather(take(queue.receiver, most=6), take(queue.receiver, most=6))
    assert len(first) + len(second) == 10
    assert not await take(queue.receiver)


async def test_what_was_deleted_never_comes_again(queue: OpenQueue) -> None:
    await queue.sender.send([message()])
    await queue.receiver.delete(await take(queue.receiver, visibility_s=0))
    assert not await take(queue.receiver)
    assert (await queue.receiver.depth()).messages == 0


async def test_what_was_not_deleted_comes_again_and_counts_it(queue: OpenQueue) -> None:
    await queue.sender.send([message()])
    await take(queue.receiver, visibility_s=0)
    assert [d.receives for d in await take(queue.receiver)] == [2]


async def test_released_messages_come_at_once(queue: OpenQueue) -> None:
    await queue.sender.send([message()])
    await queue.receiver.release(await take(queue.receiver), delay_s=0)
    assert len(await take(queue.receiver)) == 1


async def test_messages_released_with_a_delay_stay_hidden(queue: OpenQueue) -> None:
    await queue.sender.send([message()])
    await queue.receiver.release(await take(queue.receiver), delay_s=60)
    assert not await take(queue.receiver)


async def test_an_extended_message_stays_hidden(queue: OpenQueue) -> None:
    await queue.sender.send([message()])
    deliveries = await take(queue.receiver, visibility_s=0)
    await queue.receiver.extend(deliveries, visibility_s=60)
    assert not await take(queue.receiver)


async def test_a_delivery_that_another_holds_now_is_left_alone(queue: OpenQueue) -> None:
    await queue.sender.send([message()])
    late = await take(queue.receiver, visibility_s=0)
    await take(queue.receiver)

    await queue.receiver.delete(late)
    await queue.receiver.release(late, delay_s=0)
    await queue.receiver.extend(late, visibility_s=0)

    assert not await take(queue.receiver)
    assert (await queue.receiver.depth()).messages == 1


async def test_a_waiting_receiver_wakes_when_a_message_comes(queue: OpenQueue) -> None:
    waiting = asyncio.create_task(queue.receiver.receive(messages_max=1, wait_s=30, visibility_s=60))
    await queue.sender.send([message()])
    assert len(await asyncio.wait_for(waiting, 10)) == 1


async def test_a_tenant_with_many_messages_delays_no_other(queue: OpenQueue) -> None:
    await queue.sender.send([message(ACME) for _ in range(200)])
    await queue.sender.send([message(GLOBEX)])
    assert GLOBEX in {d.tenant for d in await take(queue.receiver, most=4)}


async def test_more_tenants_than_fit_a_receive_are_all_served(queue: OpenQueue) -> None:
    tenants = {TenantId(f"t{i}") for i in range(20)}
    await queue.sender.send([message(tenant) for tenant in sorted(tenants) for _ in range(3)])
    served: set[TenantId] = set()
    for _ in range(4):
        deliveries = await take(queue.receiver, most=5)
        served |= {d.tenant for d in deliveries}
        await queue.receiver.delete(deliveries)
    assert served == tenants


async def test_a_full_queue_takes_nothing_and_says_so(queue: OpenQueue) -> None:
    body = b"x" * 500_000
    assert await queue.sender.send([message(body=body), message(body=body)]) == [None, None]

    # A sender knows the depth as of its last look; a new one looks at once.
    assert [type(outcome) for outcome in await queue.new_sender().send([message(body=body)])] == [QueueFull]
    assert (await queue.receiver.depth()).bytes >= 1_000_000


async def test_depth_counts_what_lies_there(queue: OpenQueue) -> None:
    await queue.sender.send([message(body=b"x" * 100) for _ in range(3)])
    depth = await queue.receiver.depth()
    assert (depth.messages, depth.bytes) == (3, 300)
    assert 0 <= depth.oldest_age_s < 60


async def test_a_receive_that_finds_nothing_answers_nothing(queue: OpenQueue) -> None:
    assert not await queue.receiver.receive(messages_max=1, wait_s=0, visibility_s=60)


async def test_receivers_of_one_queue_all_wake(queue: OpenQueue) -> None:
    waiting = [
        asyncio.create_task(queue.receiver.receive(messages_max=1, wait_s=30, visibility_s=60)) for _ in range(4)
    ]
    await queue.sender.send([message() for _ in range(4)])
    assert [len(found) for found in await asyncio.wait_for(asyncio.gather(*waiting), 10)] == [1, 1, 1, 1]
