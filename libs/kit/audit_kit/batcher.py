"""
Events on their way into the queue: small posts of a tenant share a sealed batch, large ones are split into several.

A post departs at once where nothing is in flight. Otherwise it waits for company until a flight lands, 3 ms are over or
a batch is full, so that an idle producer waits for nobody and a busy server commits once for many.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final
from uuid import UUID

from audit_contracts.codec import BatchCodec
from audit_contracts.errors import OutcomeUnknown, QueueFull, SendUnknown, TooLarge
from audit_contracts.event import Event
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.event_queue import EventQueue
from audit_contracts.principal import TenantId
from audit_kit.keyring import Keyring
from audit_kit.metrics import INGEST_BATCH_EVENTS, INGEST_IN_FLIGHT_BYTES, INGEST_QUEUE_SEND_SECONDS
from audit_kit.packing import Pack, Placement, Post, pack

LINGER_S: Final = 0.003
SHARED_FLIGHTS_MAX: Final = 4
SHARED_BYTES_MAX: Final = 512 * 1024
"""So much waiting departs without lingering."""
ALONE_BYTES: Final = 64 * 1024
"""A post of this size gains nothing by company, and would delay those that share its flight."""
THREAD_BYTES: Final = 512 * 1024
"""
Sealing so much takes about a millisecond. Less is not worth a thread, which under load gets the interpreter only after
5 ms.
"""
HELD_BYTES_MAX: Final = 128 * 1024 * 1024
RESEND_DELAYS_S: Final = (0.05, 0.1, 0.2, 0.4)
"""Before each resend of a batch whose fate is unknown; at random up to half of it is left out."""

_MESSAGES_MAX: Final = 1_000


class Batcher:
    """
    Takes events and returns when the queue has them durably. Belongs to one event loop.

    What it holds is bounded in bytes, and no tenant may fill more than half of the bound.
    """

    def __init__(
        self,
        *,
        queue: EventQueue,
        keyring: Keyring,
        clock: Clock,
        linger_s: float = LINGER_S,
        held_bytes_max: int = HELD_BYTES_MAX,
        resend_delays_s: Sequence[float] = RESEND_DELAYS_S,
    ) -> None:
        self._queue = queue
        self._keyring = keyring
        self._clock = clock
        self._linger_s = linger_s
        self._held_bytes_max = held_bytes_max
        self._resend_delays_s = resend_delays_s
        self._codec = BatchCodec()
        # A codec belongs to one thread, so the thread that has this one is alone.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="seal")
        self._thread_codec = BatchCodec()
        self._waiting: list[Post] = []
        self._waiting_bytes = 0
        self._departs_this_turn = False
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._shared_flights: set[asyncio.Task[None]] = set()
        self._own_flights: set[asyncio.Task[None]] = set()
        self._held_bytes = 0
        self._held_by_tenant: defaultdict[TenantId, int] = defaultdict(int)
        self._is_closed = False

    async def put(self, tenant: TenantId, events: Sequence[Event]) -> Sequence[Placement]:
        """
        Put 1 or more events of the tenant into the queue, in the order given.

        Who is cancelled while it waits must take the outcome for unknown.

        Returns:
            Where they stand, once all of them are durable.

        Raises:
            TooLarge: one of them, alone, is more than a message of the queue can carry; nothing was sent.
            NotFound, DirectoryUnavailable, KeyUnavailable: there is no key to seal them with; nothing was sent.
            QueueFull: the bound on what is held was reached, or this is closed, and nothing was sent; or the queue
                did not take all of them.
            QueueUnavailable: the queue did not take all of them.
            SendUnknown: some may be in the queue.
        """
        # Here and not in the flight, so that a tenant whose key takes long delays nobody else.
        post = Post(tenant, events, await self._keyring.transport_key(tenant))
        self._hold(post)
        if post.bytes >= ALONE_BYTES:
            self._start([post], self._own_flights)
        else:
            self._waiting.append(post)
            self._waiting_bytes += post.bytes
            self._schedule()
        return await post.landed

    async def close(self) -> None:
        """Send what is held and answer all who wait; from now on nothing more is taken."""
        self._is_closed = True
        self._depart()
        while self._shared_flights or self._own_flights:
            await asyncio.wait(self._shared_flights | self._own_flights)
        self._thread.shutdown()

    def _hold(self, post: Post) -> None:
        held_by_tenant = self._held_by_tenant.get(post.tenant, 0)
        # Whoever holds nothing may always put one post; its size is bounded by what a request may carry.
        if self._is_closed:
            raise QueueFull("this process is stopping", retry_after_s=1.0)
        if held_by_tenant and held_by_tenant + post.bytes > self._held_bytes_max // 2:
            raise QueueFull("too much of this tenant is on its way into the queue", retry_after_s=1.0)
        if self._held_bytes and self._held_bytes + post.bytes > self._held_bytes_max:
            raise QueueFull("too much is on its way into the queue", retry_after_s=1.0)
        self._held_by_tenant[post.tenant] = held_by_tenant + post.bytes
        self._held_bytes += post.bytes
        INGEST_IN_FLIGHT_BYTES.inc(post.bytes)

    def _release(self, posts: Sequence[Post]) -> None:
        for post in posts:
            self._held_bytes -= post.bytes
            self._held_by_tenant[post.tenant] -= post.bytes
            if not self._held_by_tenant[post.tenant]:
                del self._held_by_tenant[post.tenant]
            INGEST_IN_FLIGHT_BYTES.dec(post.bytes)

    def _schedule(self) -> None:
        """See to it that those who wait depart."""
        if self._departs_this_turn:
            return
        loop = asyncio.get_running_loop()
        if not self._shared_flights:
            # With all whose requests came in the same turn of the loop.
            self._departs_this_turn = True
            loop.call_soon(self._depart)
        elif self._is_due or self._waiting_bytes >= SHARED_BYTES_MAX:
            if len(self._shared_flights) < SHARED_FLIGHTS_MAX:
                self._depart()
        elif self._timer is None:
            self._timer = loop.call_later(self._linger_s, self._come_due)

    def _come_due(self) -> None:
        self._timer = None
        self._is_due = True
        self._schedule()

    def _depart(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._departs_this_turn = self._is_due = False
        posts, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if posts:
            self._start(posts, self._shared_flights)

    def _start(self, posts: Sequence[Post], flights: set[asyncio.Task[None]]) -> None:
        flight = asyncio.create_task(self._fly(posts), name="queue-flight")
        flights.add(flight)

        def land(flight: asyncio.Task[None]) -> None:
            flights.discard(flight)
            self._release(posts)
            if self._waiting:
                self._schedule()

        flight.add_done_callback(land)

    async def _fly(self, posts: Sequence[Post]) -> None:
        try:
            together: defaultdict[tuple[TenantId, UUID], list[Post]] = defaultdict(list)
            for post in posts:
                together[post.tenant, post.key.key_id].append(post)
            packs = [pack for of_one_key in together.values() for pack in await self._packed(of_one_key)]
            for at in range(0, len(packs), _MESSAGES_MAX):
                await self._send(packs[at : at + _MESSAGES_MAX])
            for post in posts:
                post.land()
        except BaseException as exc:
            for post in posts:
                post.fail(exc)
            if not isinstance(exc, Exception):
                raise

    async def _packed(self, posts: Sequence[Post]) -> Sequence[Pack]:
        """The posts of one tenant and key, sealed. Those that no message can carry are told so, and left out whole."""
        while posts:
            in_thread = sum(post.bytes for post in posts) >= THREAD_BYTES
            work = partial(
                pack,
                posts,
                codec=self._thread_codec if in_thread else self._codec,
                message_bytes_max=self._queue.message_bytes_max,
                now_us=self._clock.now_us(),
            )
            packs = await asyncio.get_running_loop().run_in_executor(self._thread, work) if in_thread else work()
            too_large = {stretch.post for pack in packs if pack.message is None for stretch in pack.stretches}
            if not too_large:
                return packs
            for post in too_large:
                post.fail(
                    TooLarge(
                        "an entry, packed alone, is larger than a message of the queue may be",
                        limit_bytes=self._queue.message_bytes_max,
                    )
                )
            posts = [post for post in posts if post not in too_large]
        return ()

    async def _send(self, packs: Sequence[Pack]) -> None:
        """Send what is sealed, and note in each post what became of it."""
        unknown = await self._send_once(packs)
        for delay_s in self._resend_delays_s:
            if not unknown:
                return
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - it spreads load and hides nothing
            unknown = await self._send_once(unknown, is_resend=True)
        for lost in unknown:
            lost.tell(SendUnknown("the queue may have taken some of this; repeat the identical request"))

    async def _send_once(self, packs: Sequence[Pack], *, is_resend: bool = False) -> list[Pack]:
        """Send each of these once; the answer is those of which nobody knows what became of them."""
        started = time.perf_counter()
        outcomes = await self._queue.send([pack.message for pack in packs if pack.message is not None])
        INGEST_QUEUE_SEND_SECONDS.observe(time.perf_counter() - started)
        unknown = []
        for sent, outcome in zip(packs, outcomes, strict=True):
            if outcome is None:
                INGEST_BATCH_EVENTS.observe(sent.count)
                sent.tell(None)
            elif is_resend or isinstance(outcome, OutcomeUnknown):
                # A refusal now does not undo what an earlier send of it may have done.
                unknown.append(sent)
            else:
                sent.tell(outcome)
        return unknown
