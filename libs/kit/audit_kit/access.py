"""
The audit of the audit log: reads and refused attempts, as events of the tenant they concern.

The first read of a principal, route and filter in a minute of the clock is durable before its answer goes out; its
repeats in that minute are counted, and told in one more event when the minute is over. Refused attempts are told in the
same rhythm, but nobody waits for them, so that who is refused can slow nothing down.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import orjson
import structlog

from audit_contracts.errors import AuditLogError
from audit_contracts.event import ACCESS_SOURCE, EntryIn, Outcome, Severity
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.tenant_directory import TenantDirectory
from audit_contracts.principal import Principal, TenantId
from audit_contracts.times import from_us
from audit_kit.access_tallies import Deed, Tallies, Tally
from audit_kit.auth.attempts import RefusedAttempt
from audit_kit.batcher import Batcher
from audit_kit.event_making import masker_of, own_events
from audit_kit.keyring import Keyring
from audit_kit.metrics import ACCESS_RECORDS
from audit_kit.part import Worker

READ: Final = "auditlog.read"
REFUSED: Final = "auditlog.refused"
REPEATS: Final = ".repeats"
"""What is added to an action where an event sums up the repeats of a minute."""
ROUTE: Final = "route"
"""The `resource_type` of what was read or refused; its `resource_id` is method and path template."""

_FILTER_DOMAIN: Final = b"auditlog/filter/1\n"

_QUEUED: Final = ACCESS_RECORDS.labels("queued")
_SUMMED: Final = ACCESS_RECORDS.labels("summed")
_FAILED: Final = ACCESS_RECORDS.labels("failed")

_Result = TypeVar("_Result")

log = structlog.get_logger(__name__)


class AccessRecorder:
    """
    Records into the tenant's own log, through the same masking and queue as everything else.

    What it counts is bounded, and lost with the process; the first of a minute never is.
    """

    def __init__(self, *, batcher: Batcher, keyring: Keyring, directory: TenantDirectory, clock: Clock) -> None:
        self._batcher = batcher
        self._keyring = keyring
        self._directory = directory
        self._clock = clock
        self._tallies = Tallies(clock)
        self._background: set[asyncio.Task[None]] = set()

    async def read(
        self,
        principal: Principal,
        *,
        route: str,
        filter: Mapping[str, Any],
        work: Coroutine[Any, Any, _Result],
        results: Callable[[_Result], int],
    ) -> _Result:
        """
        Do the `work` of a read and record the read, side by side.

        Args:
            route: method and path template.
            filter: what was asked, as JSON; pages of one question are one question.
            results: how many entries an answer shows.

        Returns:
            What `work` returns, once this minute's first record of the read is durable.

        Raises:
            What `work` raises; or, after `work` was cancelled, what recording raises: then nothing may be answered.
        """
        asked = orjson.dumps(filter, option=orjson.OPT_SORT_KEYS)
        try:
            lookup = await self._keyring.lookup_key(principal.tenant)
        except BaseException:
            work.close()
            raise
        # Keyed, since the filter may hold what is masked in the record, and short secrets can be guessed from a hash.
        digest = lookup.masking.mac(_FILTER_DOMAIN + asked).hex()
        deed = Deed(principal.tenant, principal.subject, principal.name, READ, route, digest)
        tally = self._tallies.count(deed, {"filter": orjson.loads(asked), "filter_mac": digest})
        result = await _beside(work, self._recorded(tally))
        tally.results += results(result)
        return result

    async def refused(self, attempt: RefusedAttempt) -> None:
        """Have it recorded that a genuine identity was refused. Neither waits for that nor raises."""
        who = attempt.identity
        if who.tenant is None:
            # Its issuer may not speak for the tenant, so it must not write into that tenant's log either.
            log.warning("attempt_refused", issuer=who.issuer, route=attempt.route, problem=attempt.problem)
            return
        deed = Deed(who.tenant, who.subject, f"{who.issuer}|{who.subject}", REFUSED, attempt.route, attempt.problem)
        _ = self._recorded(self._tallies.count_refusal(deed, {"problem": attempt.problem}))

    def worker(self) -> Worker:
        """What tells the repeats at the end of each minute, and the last of them at the end of the process."""
        return Worker(name="access-records", run=self._run)

    async def flush(self, *, all_of_them: bool = True) -> None:
        """Tell the repeats counted so far, or those of minutes that are over; nothing is on its way when it returns."""
        self._tell_repeats(all_of_them=all_of_them)
        if self._background:
            await asyncio.wait(self._background)

    async def _run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._tallies.minute_left_s)
            await self.flush(all_of_them=stop.is_set())

    def _recorded(self, tally: Tally) -> asyncio.Task[None]:
        """The recording of the tally's first, begun if this is it."""
        if tally.recorded is None:
            tally.recorded = self._task(self._record_first(tally, _entry(tally)))
            self._background.add(tally.recorded)
            if self._tallies.is_full:
                self._tell_repeats(all_of_them=True)
        else:
            _SUMMED.inc()
        return tally.recorded

    async def _record_first(self, tally: Tally, entry: EntryIn) -> None:
        try:
            await self._put(tally.deed.tenant, {tally.deed.issuer_and_subject: [entry]})
        except BaseException:
            self._tallies.forget(tally)
            raise

    def _tell_repeats(self, *, all_of_them: bool) -> None:
        told: defaultdict[TenantId, defaultdict[str, list[EntryIn]]] = defaultdict(lambda: defaultdict(list))
        for tally in self._tallies.take(all_of_them=all_of_them):
            told[tally.deed.tenant][tally.deed.issuer_and_subject].append(_entry(tally))
        for tenant, entries in told.items():
            self._background.add(self._task(self._put(tenant, entries)))

    async def _put(self, tenant_id: TenantId, entries: Mapping[str, Sequence[EntryIn]]) -> None:
        """Put entries, by the principal who submits them, into the tenant's log."""
        try:
            tenant = await self._directory.tenant(tenant_id)
            masker = await masker_of(tenant, self._keyring)
            now_us = self._clock.now_us()
            events = [event for name, of in entries.items() for event in own_events(masker, name, of, now_us=now_us)]
            await self._batcher.put(tenant_id, events)
        except BaseException as exc:
            _FAILED.inc()
            log.warning("access_not_recorded", error=type(exc).__name__)
            raise
        _QUEUED.inc(len(events))

    def _task(self, recording: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(recording)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (exc := task.exception()) and not isinstance(exc, AuditLogError):
            log.error("access_recorder_broken", exc_info=exc)


async def _beside(work: Coroutine[Any, Any, _Result], recorded: asyncio.Task[None]) -> _Result:
    """The result of `work` once both are done; the first error of either, with `work` at its end."""
    if recorded.done() and recorded.exception() is None:
        return await work
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({working, recorded}, return_when=asyncio.FIRST_EXCEPTION)
        if recorded.done():
            recorded.result()
        return await working
    finally:
        if not working.done():
            working.cancel()
            await asyncio.wait({working})


def _entry(tally: Tally) -> EntryIn:
    """The first of a minute as an entry, or, where there were any, its repeats."""
    deed, metadata = tally.deed, dict(tally.metadata)
    if tally.repeats:
        metadata |= {"repeats": tally.repeats, "since": from_us(tally.since_us), "until": from_us(tally.until_us)}
        if deed.action == READ:
            metadata["results"] = tally.results
    is_refusal = deed.action == REFUSED
    return EntryIn(
        user_id=deed.subject,
        action=deed.action + REPEATS if tally.repeats else deed.action,
        resource_type=ROUTE,
        resource_id=deed.route,
        metadata=metadata,
        source=ACCESS_SOURCE,
        severity=Severity.WARNING if is_refusal else Severity.INFO,
        outcome=Outcome.FAILURE if is_refusal else Outcome.SUCCESS,
    )
