"""Brings the records of changes from the outbox, where they were committed with the change, into the event queue."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from audit_contracts.errors import DirectoryUnavailable, NotDone, OutcomeUnknown
from audit_contracts.ports.event_queue import EventQueue
from audit_contracts.ports.tenant_directory import TenantRegistry
from audit_kit.metrics import ACCESS_RECORDS, ADMIN_OUTBOX_MESSAGES, ADMIN_OUTBOX_OLDEST_SECONDS
from audit_kit.part import Worker

LOOK_S: Final = 5.0
"""How long a message can lie there that another process left behind."""
BACK_OFF_S_MAX: Final = 30.0

_FIRST_BACK_OFF_S: Final = 0.5
_MESSAGES_MAX: Final = 100

_QUEUED: Final = ACCESS_RECORDS.labels("queued")

log = structlog.get_logger(__name__)


class OutboxRelay:
    """
    Sends what lies in the outbox, and takes it out once the queue has it. Any number of them may run on one outbox.

    A message that was sent and, by a crash, not taken out is sent again; the ledger drops it by its batch id.
    """

    def __init__(self, *, registry: TenantRegistry, queue: EventQueue) -> None:
        self._registry = registry
        self._queue = queue
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Have the worker look now: something was committed."""
        self._wake.set()

    async def relay(self) -> None:
        """
        Send all that nobody else has in hand.

        Raises:
            NotDone, OutcomeUnknown: what was not taken by the queue, or may not have been, is still in the outbox.
        """
        taken = _MESSAGES_MAX
        while taken == _MESSAGES_MAX:
            async with self._registry.taken_from_outbox(messages_max=_MESSAGES_MAX) as messages:
                taken = len(messages)
                for outcome in await self._queue.send(messages) if messages else ():
                    if outcome is not None:
                        raise outcome
            _QUEUED.inc(taken)

    def worker(self) -> Worker:
        """What relays as long as the process runs; what is left then waits for another, or for the next start."""
        return Worker(name="outbox-relay", run=self._run)

    async def _run(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._wake.set())
        back_off_s = _FIRST_BACK_OFF_S
        try:
            while not stop.is_set():
                self._wake.clear()
                try:
                    await self.relay()
                    waiting, wait_s, back_off_s = self._wake, LOOK_S, _FIRST_BACK_OFF_S
                except (NotDone, OutcomeUnknown) as exc:
                    log.warning("outbox_waits", reason=type(exc).__name__)
                    # Changes that come meanwhile don't cut it short: the queue is not asked once more for each.
                    waiting, wait_s, back_off_s = stop, back_off_s, min(2 * back_off_s, BACK_OFF_S_MAX)
                await self._measure()
                with suppress(TimeoutError):
                    await asyncio.wait_for(waiting.wait(), wait_s)
        finally:
            stopping.cancel()

    async def _measure(self) -> None:
        with suppress(DirectoryUnavailable):
            depth = await self._registry.outbox_depth()
            ADMIN_OUTBOX_MESSAGES.set(depth.messages)
            ADMIN_OUTBOX_OLDEST_SECONDS.set(depth.oldest_age_s)
