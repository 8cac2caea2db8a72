"""Answers from the ledger: a page of a list, and one entry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from audit_contracts.event import Entry
from audit_contracts.ids import uuid7_us
from audit_contracts.masking_policy import HASH_MARKER
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.ledger import LedgerReader, LedgerRow
from audit_contracts.ports.tenant_directory import Tenant
from audit_contracts.principal import Principal
from audit_contracts.query import HASHABLE_FIELDS, Filter, Sight
from audit_kit.event_making import masker_of
from audit_kit.keyring import Keyring
from audit_kit.masking import Masker
from audit_kit.metrics import QUERY_SCANNED_ROWS, QUERY_SECONDS
from audit_query.cursor import Cursor, cursor_of, digest, token_of
from audit_query.opening import RowOpener
from audit_query.parameters import Question

BUDGET: Final = 10_000
"""Entries looked at in one slice of a walk: about 10 ms."""
SLICES_S: Final = 0.05
"""A page goes on with further slices until it is full or so much time is over; then it is answered as it is."""
COUNT_MAX: Final = 10_000
COUNT_BUDGET: Final = 50_000

YOUNG_US: Final = 60_000_000
YOUNG_WAIT_MS: Final = 1_000
"""An id made less than a minute ago is waited for so long where the reader doesn't say: it may be on its way."""
AGELESS_WAIT_MS: Final = 250
"""The same for an id that doesn't tell its age, as those of clients: almost every entry is there by then."""
WAITING_MAX: Final = 100
"""Reads that wait at one time; more of them are answered at once."""

_CUT: Final = ("[REDACTED]", "[LAST4:")
_POLL_FIRST_S: Final = 0.01
_POLL_MOST_S: Final = 0.1
_CLOCK_AHEAD_US: Final = 5_000_000


class Watermark(msgspec.Struct, frozen=True):
    """How far the log has come: the next position, and when the entry before it was recorded."""

    position: int
    recorded_at: datetime | None


class Page(msgspec.Struct, frozen=True, omit_defaults=True):
    """A page as it is answered. `next_token` is null on the last one; a page may be short, or empty, before that."""

    results: list[Entry]
    count: int
    next_token: str | None
    watermark: Watermark
    total: int | msgspec.UnsetType = msgspec.UNSET
    total_exact: bool | msgspec.UnsetType = msgspec.UNSET


class Reading:
    """What the routes do, once who asks and what is asked are known."""

    def __init__(self, *, reader: LedgerReader, keyring: Keyring, clock: Clock) -> None:
        self._reader = reader
        self._keyring = keyring
        self._clock = clock
        self._opener = RowOpener(reader=reader, keyring=keyring, clock=clock)
        self._waiting = 0

    async def page(self, principal: Principal, tenant: Tenant, asked: Question, *, route: str) -> Page:
        """
        The page that `asked` asks for.

        Raises:
            InvalidCursor: its next_token is not one of this question and reader.
            LedgerUnavailable, DirectoryUnavailable, KeyUnavailable: not now.
        """
        bound = digest(principal, asked.filter, asked.direction)
        start = size = None
        if asked.next_token is not None:
            cursor = await cursor_of(asked.next_token, keyring=self._keyring, tenant=principal.tenant, question=bound)
            start, size = cursor.position, cursor.size
        filter, sight = await self._as_kept(principal, tenant, asked.filter)
        began = time.perf_counter()
        rows: list[LedgerRow] = []
        scanned = 0
        while True:
            head, found = await self._reader.walk(
                principal.tenant,
                filter=filter,
                sight=sight,
                direction=asked.direction,
                start=start,
                size=size,
                limit=asked.limit - len(rows),
                budget=BUDGET,
            )
            size = head.next_position if size is None else size
            start = found.next_position
            rows.extend(found.rows)
            scanned += found.scanned
            if start is None or len(rows) == asked.limit or time.perf_counter() - began > SLICES_S:
                break
        total: int | msgspec.UnsetType = msgspec.UNSET
        exact: bool | msgspec.UnsetType = msgspec.UNSET
        if asked.total:
            total, exact = await self._reader.count(
                principal.tenant, filter=filter, sight=sight, size=size, budget=COUNT_BUDGET, count_max=COUNT_MAX
            )
        QUERY_SECONDS.labels(route).observe(time.perf_counter() - began)
        QUERY_SCANNED_ROWS.observe(scanned)
        token = None
        if start is not None:
            cursor = Cursor(size, start)
            token = await token_of(cursor, keyring=self._keyring, tenant=principal.tenant, question=bound)
        return Page(
            results=await self._opener.open(principal.tenant, head.log_id, rows),
            count=len(rows),
            next_token=token,
            watermark=Watermark(head.next_position, head.recorded_at),
            total=total,
            total_exact=exact,
        )

    async def entry(
        self, principal: Principal, tenant: Tenant, entry_id: UUID, wait_ms: int | None, *, route: str
    ) -> Entry | None:
        """
        The entry of this id, None where there is none that the reader may see.

        Args:
            wait_ms: how long to wait for it to be recorded; None: as long as its age suggests.
        """
        _, sight = await self._as_kept(principal, tenant, None)
        began = time.perf_counter()
        head, row = await self._reader.row(principal.tenant, entry_id, sight=sight)
        QUERY_SECONDS.labels(route).observe(time.perf_counter() - began)
        wait_s = (self._usual_wait_ms(entry_id) if wait_ms is None else wait_ms) / 1_000
        if row is None and wait_s and self._waiting < WAITING_MAX:
            self._waiting += 1
            try:
                row = await self._awaited(principal, entry_id, sight, until=began + wait_s)
            finally:
                self._waiting -= 1
        if row is None:
            return None
        (entry,) = await self._opener.open(principal.tenant, head.log_id, [row])
        return entry

    async def _awaited(self, principal: Principal, entry_id: UUID, sight: Sight, *, until: float) -> LedgerRow | None:
        pause_s = _POLL_FIRST_S
        while (left_s := until - time.perf_counter()) > 0:
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, _POLL_MOST_S)
            _, row = await self._reader.row(principal.tenant, entry_id, sight=sight)
            if row is not None:
                return row
        return None

    def _usual_wait_ms(self, entry_id: UUID) -> int:
        made_us = uuid7_us(entry_id)
        if made_us is None:
            return AGELESS_WAIT_MS
        age_us = self._clock.now_us() - made_us
        return YOUNG_WAIT_MS if -_CLOCK_AHEAD_US < age_us < YOUNG_US else 0

    async def _as_kept(self, principal: Principal, tenant: Tenant, filter: Filter | None) -> tuple[Filter, Sight]:
        """Filter and sight with values that masking hashes looked for both ways: as they are, and as they are kept."""
        filter = filter or Filter()
        own = principal.own_entries_of
        hashable = [of for of in (filter.equal, filter.unequal) if not of.keys().isdisjoint(HASHABLE_FIELDS)]
        if own is None and not hashable:
            return filter, Sight(scope=principal.data_scope)
        masker = await masker_of(tenant, self._keyring)
        if hashable:
            filter = msgspec.structs.replace(
                filter, equal=_both_ways(filter.equal, masker), unequal=_both_ways(filter.unequal, masker)
            )
        owns = None if own is None else _with_hash("user_id", (own,), masker)
        return filter, Sight(scope=principal.data_scope, own_entries_of=owns)


def _both_ways(values_of: Mapping[str, tuple[str, ...]], masker: Masker) -> dict[str, tuple[str, ...]]:
    return {
        field: _with_hash(field, values, masker) if field in HASHABLE_FIELDS else values
        for field, values in values_of.items()
    }


def _with_hash(field: str, values: tuple[str, ...], masker: Masker) -> tuple[str, ...]:
    kept = (masker.as_kept(field, value) for value in values)
    return tuple(sorted({*values, *(value for value in kept if _is_findable(value))}))


def _is_findable(kept: str) -> bool:
    # A hash stands for one value; what was cut out of a value stands for every one that was cut alike.
    return HASH_MARKER in kept and not any(cut in kept for cut in _CUT)
