"""Counting what is repeated within a minute of the clock, bounded in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from audit_contracts.ports.clock import Clock
from audit_contracts.principal import TenantId

TALLIES_MAX: Final = 10_000
"""Different reads and refusals counted at once in a process; about a kilobyte each."""
REFUSALS_MAX: Final = 100
"""Different refusals of one tenant in a minute; further ones count together."""
THE_REST: Final = "-"

_MINUTE_US: Final = 60_000_000


class Deed(msgspec.Struct, frozen=True):
    """
    What somebody did: equal deeds of one minute are told once, and then counted.

    `issuer_and_subject` is the principal's name; `sameness` tells deeds on one route apart (a filter's digest, a
    problem).
    """

    tenant: TenantId
    subject: str
    issuer_and_subject: str
    action: str
    route: str
    sameness: str


class Tally(msgspec.Struct):
    """
    A deed and its repeats. `recorded` is done when the first is durable, or failed to be.

    `results` counts the entries shown by all reads of it, the first included.
    """

    deed: Deed
    metadata: Mapping[str, Any]
    since_us: int
    until_us: int
    recorded: asyncio.Task[None] | None = None
    repeats: int = 0
    results: int = 0


class Tallies:
    """The tallies of this minute, and those of minutes before that nobody took yet."""

    def __init__(self, clock: Clock, *, tallies_max: int = TALLIES_MAX) -> None:
        self._clock = clock
        self._tallies_max = tallies_max
        self._current: dict[Deed, Tally] = {}
        self._over: list[Tally] = []
        self._refusals: defaultdict[TenantId, int] = defaultdict(int)
        self._minute = 0

    def count(self, deed: Deed, metadata: Mapping[str, Any]) -> Tally:
        """Count a deed: a new tally for the first of its minute, with one repeat more for any other."""
        now_us = self._turn()
        tally = self._current.get(deed)
        if tally is None:
            tally = self._current[deed] = Tally(deed, metadata, now_us, now_us)
        else:
            tally.repeats += 1
            tally.until_us = now_us
        return tally

    def count_refusal(self, deed: Deed, metadata: Mapping[str, Any]) -> Tally:
        """The same for a refused attempt; past the bound of its tenant it counts among the rest."""
        self._turn()
        if deed not in self._current:
            if self._refusals[deed.tenant] >= REFUSALS_MAX:
                return self.count(Deed(deed.tenant, THE_REST, THE_REST, deed.action, THE_REST, THE_REST), {})
            self._refusals[deed.tenant] += 1
        return self.count(deed, metadata)

    def forget(self, tally: Tally) -> None:
        """Begin anew with the next such deed: this one could not be recorded."""
        if self._current.get(tally.deed) is tally:
            del self._current[tally.deed]

    @property
    def is_full(self) -> bool:
        """Whether all should be taken now; that costs events and loses none."""
        return len(self._current) >= self._tallies_max

    def take(self, *, all_of_them: bool) -> list[Tally]:
        """Tallies with repeats, of minutes that are over or of all; each is handed out once."""
        self._turn()
        if all_of_them:
            self._put_aside()
        over, self._over = self._over, []
        return over

    @property
    def minute_left_s(self) -> float:
        """Seconds until this minute of the clock is over."""
        return (_MINUTE_US - self._clock.now_us() % _MINUTE_US) / 1_000_000

    def _turn(self) -> int:
        """Put this minute's tallies aside if it is over; the answer is the time."""
        now_us = self._clock.now_us()
        if now_us // _MINUTE_US != self._minute:
            self._minute = now_us // _MINUTE_US
            self._put_aside()
            self._refusals.clear()
        return now_us

    def _put_aside(self) -> None:
        self._over += (tally for tally in self._current.values() if tally.repeats)
        self._current = {}
