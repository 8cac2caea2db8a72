"""
The ledger's projector: takes batches off the queue, writes them exactly once, then deletes their messages.

    intake  queue -> opened, sealed -> in hand        bounded by events in hand
    writer  in hand -> one transaction -> done        a busy tenant's stay in hand and block nobody
    clean   done -> deleted from the queue            after the commit, never before

A crash between any two of them ends in a redelivery, which the ledger recognises.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import structlog

from audit_contracts.errors import (
    AppendUnknown,
    DirectoryUnavailable,
    KeyUnavailable,
    LedgerUnavailable,
    NotFound,
    QueueUnavailable,
    SealBroken,
)
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.event_queue import Delivery, EventQueue
from audit_contracts.ports.ledger import AppendResult, DeadLetter, Ledger, PreparedBatch, Unwritable
from audit_contracts.principal import TenantId
from audit_contracts.times import from_us
from audit_kit import metrics
from audit_kit.keyring import Keyring
from audit_projector import dead_letter
from audit_projector.preparing import OpenedBatch, Preparer

IN_HAND_EVENTS_MAX: Final = 20_000
APPEND_EVENTS_MAX: Final = 5_000
"""Events of one transaction, unless a single batch is larger."""
RECEIVE_MESSAGES_MAX: Final = 64
RECEIVE_WAIT_S: Final = 2.0
VISIBILITY_S: Final = 60.0
"""Three times the longest wait between two extensions."""
PAUSE_S: Final = 0.5
"""Between tries while a store is down. Nothing is received meanwhile, so an outage counts no receives."""
BUSY_PAUSE_S: Final = 0.005
WAITING_KEY_S: Final = 5.0
AHEAD_PAUSE_S: Final = 30.0
HOUSEKEEPING_S: Final = 3_600.0
TOUCH_S: Final = 10.0
API_KEY_PREFIX: Final = "key|"

_LATER: Final = (LedgerUnavailable, KeyUnavailable, DirectoryUnavailable, QueueUnavailable)

log = structlog.get_logger(__name__)


class _Work:
    """One message in hand."""

    __slots__ = ("batch", "opened", "received_s")

    def __init__(self, opened: OpenedBatch, batch: PreparedBatch, received_s: float) -> None:
        self.opened = opened
        self.batch = batch
        self.received_s = received_s


class LedgerProjector:
    """Runs until told to stop; any number of them may run on one queue and one ledger."""

    def __init__(self, *, queue: EventQueue, ledger: Ledger, keyring: Keyring, clock: Clock) -> None:
        self._queue = queue
        self._ledger = ledger
        self._clock = clock
        self._preparer = Preparer(ledger=ledger, keyring=keyring, clock=clock)
        self._hand: deque[_Work] = deque()
        self._hand_events = 0
        self._done: list[Delivery] = []
        self._changed = asyncio.Condition()
        self._intake_over = False
        self._writing_over = False
        self._ledger_is_up = True
        self._waking: asyncio.Future[None] | None = None
        self._used_keys: dict[tuple[TenantId, UUID], datetime] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Project until `stop` is set and what is in hand is written or given back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                chores = [
                    tasks.create_task(self._every(VISIBILITY_S / 3, self._extend)),
                    tasks.create_task(self._every(HOUSEKEEPING_S, self._ledger.housekeep)),
                    tasks.create_task(self._every(TOUCH_S, self._touch_api_keys)),
                    tasks.create_task(self._every(TOUCH_S / 2, self._measure_lag)),
                ]
                tasks.create_task(self._clean())
                tasks.create_task(self._write(stop))
                await self._take_in(stop)
                await self._over(intake=True)
                async with self._changed:
                    await self._changed.wait_for(lambda: self._writing_over and not self._done)
                for chore in chores:
                    chore.cancel()
        finally:
            self._preparer.close()

    async def _take_in(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._wake_all())
        try:
            while await self._has_room(stop):
                try:
                    deliveries = await self._receive(stopping)
                except QueueUnavailable:
                    log.warning("queue_unavailable")
                    await asyncio.sleep(PAUSE_S)
                    continue
                await self._take_all(deliveries)
        finally:
            stopping.cancel()

    async def _receive(self, stopping: asyncio.Task[Literal[True]]) -> Sequence[Delivery]:
        receiving = asyncio.ensure_future(
            self._queue.receive(messages_max=RECEIVE_MESSAGES_MAX, wait_s=RECEIVE_WAIT_S, visibility_s=VISIBILITY_S)
        )
        try:
            await asyncio.wait((receiving, stopping), return_when=asyncio.FIRST_COMPLETED)
            return receiving.result() if receiving.done() else ()
        finally:
            if not receiving.done():
                # What a cancelled receive had taken comes back when its visibility runs out.
                receiving.cancel()
                with suppress(asyncio.CancelledError, QueueUnavailable):
                    await receiving

    async def _has_room(self, stop: asyncio.Event) -> bool:
        """Wait for room in hand and for a ledger that can be reached; False once told to stop."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._hand_events < IN_HAND_EVENTS_MAX or stop.is_set())
        while not stop.is_set():
            try:
                if not self._ledger_is_up:
                    await self._ledger.check()
                self._ledger_is_up = True
                return True
            except LedgerUnavailable:
                await asyncio.sleep(PAUSE_S)
        return False

    def _wake_all(self) -> None:
        self._waking = asyncio.ensure_future(self._over())

    async def _take_all(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries in their turn for as long as there is room; what is too much goes back at once."""
        for i, delivery in enumerate(deliveries):
            if self._hand_events >= IN_HAND_EVENTS_MAX:
                with suppress(QueueUnavailable):
                    await self._queue.release(deliveries[i:], delay_s=0)
                return
            await self._take(delivery)

    async def _take(self, delivery: Delivery) -> None:
        received_s = self._clock.monotonic_s()
        try:
            opened = await self._preparer.open(delivery)
            batch = await self._preparer.prepare(opened)
        except SealBroken as exc:
            await self._bury(delivery, dead_letter.whole(delivery, dead_letter.REASON_SEAL, exc.detail))
        except NotFound as exc:
            await self._bury(delivery, dead_letter.whole(delivery, dead_letter.REASON_UNKNOWN, exc.detail))
        except _LATER as exc:
            log.warning("batch_waits", reason=type(exc).__name__)
            self._ledger_is_up &= not isinstance(exc, LedgerUnavailable)
            with suppress(QueueUnavailable):
                await self._queue.release([delivery], delay_s=WAITING_KEY_S)
            await asyncio.sleep(PAUSE_S)
        else:
            metrics.PROJECTOR_RECEIVED_EVENTS.inc(len(opened.events))
            async with self._changed:
                self._hand.append(_Work(opened, batch, received_s))
                self._hand_events += len(opened.events)
                self._changed.notify_all()

    async def _write(self, stop: asyncio.Event) -> None:
        while works := await self._next():
            try:
                if not await self._append(works):
                    await asyncio.sleep(BUSY_PAUSE_S)
            except (*_LATER, AppendUnknown) as exc:
                log.warning("ledger_waits", reason=type(exc).__name__)
                self._ledger_is_up = False
                if stop.is_set():
                    # What can't be written now is another replica's, or the next start's.
                    with suppress(QueueUnavailable):
                        await self._queue.release([work.opened.delivery for work in works], delay_s=0)
                    await self._drop(works)
                else:
                    await asyncio.sleep(PAUSE_S)
        await self._over(writing=True)

    async def _next(self) -> list[_Work]:
        """The oldest of what is in hand, up to one transaction; nothing once intake is over and the hand empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._hand or self._intake_over)
            works: list[_Work] = []
            events = 0
            for work in self._hand:
                events += len(work.batch.events)
                if works and events > APPEND_EVENTS_MAX:
                    break
                works.append(work)
            return works

    async def _append(self, works: Sequence[_Work]) -> bool:
        """One transaction, whose results leave the hand. False where nothing moved."""
        try:
            result = await self._ledger.append([work.batch for work in works])
        except Unwritable:
            await self._append_apart(works)
            return True
        await self._settle(works, result)
        return bool(result.done or result.ahead or result.stale)

    async def _append_apart(self, works: Sequence[_Work]) -> None:
        for work in works:
            letters: list[DeadLetter] = []
            try:
                result = await self._ledger.append([work.batch])
            except Unwritable:
                batch, letters = await dead_letter.isolate(self._ledger, self._preparer, work.opened, work.batch)
                result = await self._ledger.append([batch], letters)
            if result.done:
                metrics.PROJECTOR_DEAD_LETTERS.labels("event").inc(len(letters))
                for letter in letters:
                    log.error(
                        "event_dead", batch_id=str(letter.batch_id), ordinal=letter.ordinal, sqlstate=letter.detail
                    )
            await self._settle([work], result)

    async def _settle(self, works: Sequence[_Work], result: AppendResult) -> None:
        metrics.PROJECTOR_APPENDED_EVENTS.inc(result.appended)
        metrics.PROJECTOR_REPEATED_EVENTS.inc(result.repeats)
        done = [works[i] for i in result.done]
        now_us, now_s = self._clock.now_us(), self._clock.monotonic_s()
        for work in done:
            metrics.PROJECTOR_BATCH_SECONDS.observe(now_s - work.received_s)
            metrics.PROJECTOR_VISIBLE_SECONDS.observe((now_us - work.opened.events[0].received_at_us) / 1_000_000)
            self._note_key_uses(work.opened)
        if ahead := [works[i] for i in result.ahead]:
            log.critical("head_ahead_of_clock", tenants=len({work.batch.tenant for work in ahead}))
            with suppress(QueueUnavailable):
                await self._queue.release([work.opened.delivery for work in ahead], delay_s=AHEAD_PAUSE_S)
        self._done.extend(work.opened.delivery for work in done)
        await self._drop([*done, *ahead])
        async with self._changed:
            # Those of busy tenants go behind the others, in their order.
            busy = [works[i] for i in result.busy]
            for work in busy:
                self._hand.remove(work)
            self._hand.extend(busy)
        for i in result.stale:
            works[i].batch = await self._preparer.prepare_anew(works[i].opened)

    async def _drop(self, works: Sequence[_Work]) -> None:
        async with self._changed:
            for work in works:
                self._hand.remove(work)
                self._hand_events -= len(work.opened.events)
            self._changed.notify_all()

    async def _bury(self, delivery: Delivery, letter: DeadLetter) -> None:
        """Dead-letter a whole message."""
        log.error("batch_dead", batch_id=str(letter.batch_id), reason=letter.reason)
        try:
            await self._ledger.append([], [letter])
        except (LedgerUnavailable, AppendUnknown):
            return  # it comes again
        metrics.PROJECTOR_DEAD_LETTERS.labels("batch").inc()
        async with self._changed:
            self._done.append(delivery)
            self._changed.notify_all()

    async def _clean(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._done or self._writing_over)
                if not self._done:
                    return
                done, self._done = self._done, []
            try:
                await self._queue.delete(done)
            except QueueUnavailable:
                log.warning("delete_failed", messages=len(done))  # they come again, and are recognised
            async with self._changed:
                self._changed.notify_all()

    async def _over(self, *, intake: bool = False, writing: bool = False) -> None:
        async with self._changed:
            self._intake_over |= intake
            self._writing_over |= writing
            self._changed.notify_all()

    async def _every(self, pause_s: float, chore: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await chore()
            except _LATER as exc:
                log.warning("chore_waits", reason=type(exc).__name__)
            await asyncio.sleep(pause_s)

    async def _extend(self) -> None:
        if self._hand:
            await self._queue.extend([work.opened.delivery for work in self._hand], visibility_s=VISIBILITY_S)

    async def _measure_lag(self) -> None:
        depth = await self._queue.depth()
        metrics.PROJECTOR_LAG_SECONDS.set(depth.oldest_age_s)
        metrics.PROJECTOR_LAG_MESSAGES.set(depth.messages)

    def _note_key_uses(self, opened: OpenedBatch) -> None:
        for event in opened.events:
            if event.submitted_by.startswith(API_KEY_PREFIX):
                with suppress(ValueError):
                    key_id = UUID(event.submitted_by.removeprefix(API_KEY_PREFIX))
                    self._used_keys[opened.delivery.tenant, key_id] = from_us(event.received_at_us)

    async def _touch_api_keys(self) -> None:
        if self._used_keys:
            used, self._used_keys = self._used_keys, {}
            await self._ledger.touch_api_keys(used)
