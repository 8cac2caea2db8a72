"""Tenants and keys, remembered for seconds: one read for many requests, and none for those who guess."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar
from uuid import UUID

from audit_contracts.errors import NotFound, RateLimited
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.tenant_directory import ApiKey, Tenant, TenantDirectory
from audit_contracts.principal import TenantId
from audit_kit.metrics import DIRECTORY_READS

CACHED_FOR_S: Final = 20.0
"""With the reading itself this stays below the 30 s after which a revoked key must be dead."""
MISSING_FOR_S: Final = 2.0
"""Short, so that a tenant or key works soon after it is made; long enough for a client that repeats a mistake."""
CACHED_MAX: Final = 20_000
UNKNOWN_PER_S: Final = 20
UNKNOWN_BURST: Final = 100
"""Reads for keys that turn out not to exist: a guesser gets these many, and the database is spared the rest."""

_HIT: Final = DIRECTORY_READS.labels("hit")
_Value = TypeVar("_Value")


class CachedDirectory:
    """
    A `TenantDirectory` in front of another, with its answers at most `cached_for_s` old; at most 30 by the contract.

    Requests that miss together share one read. Failures aren't remembered, and nothing stale is served in their place.
    """

    def __init__(self, directory: TenantDirectory, *, clock: Clock, cached_for_s: float = CACHED_FOR_S) -> None:
        if not 0 < cached_for_s <= 30:
            raise ValueError("a directory may be cached for up to 30 seconds")
        self._directory = directory
        self._tenants: _Cache[Tenant] = _Cache(clock, cached_for_s)
        self._keys: _Cache[ApiKey] = _Cache(clock, cached_for_s)
        self._guesses = _Guesses(clock)

    async def is_development(self) -> bool:
        """Whether the database is one of development; asked each time. Raises what the port raises."""
        return await self._directory.is_development()

    async def tenant(self, tenant: TenantId) -> Tenant:
        """The tenant as it stood at most `cached_for_s` ago. Raises what the port raises."""
        return await self._tenants.get(tenant, lambda: self._directory.tenant(tenant))

    async def api_key(self, tenant: TenantId, key_id: UUID) -> ApiKey:
        """
        The key as it stood at most `cached_for_s` ago. Raises what the port raises, and:

        Raises:
            RateLimited: too many keys that don't exist were asked for; only keys that were in use still work.
        """

        async def read() -> ApiKey:
            if self._keys.was_known((tenant, key_id)):
                return await self._directory.api_key(tenant, key_id)
            with self._guesses.one():
                return await self._directory.api_key(tenant, key_id)

        return await self._keys.get((tenant, key_id), read)

    def forget(self, tenant: TenantId) -> None:
        """Drop what is remembered of the tenant, because this process just changed it."""
        self._tenants.drop(lambda key: key == tenant)
        self._keys.drop(lambda key: isinstance(key, tuple) and key[0] == tenant)


class _Cache(Generic[_Value]):
    """Values and absences by key, with an end to each, and one read at a time for a key."""

    def __init__(self, clock: Clock, cached_for_s: float) -> None:
        self._clock = clock
        self._cached_for_s = cached_for_s
        self._entries: OrderedDict[Hashable, tuple[_Value | NotFound, float]] = OrderedDict()
        self._reading: dict[Hashable, asyncio.Task[_Value]] = {}
        self._drops = 0

    async def get(self, key: Hashable, read: Callable[[], Awaitable[_Value]]) -> _Value:
        entry = self._entries.get(key)
        if entry is not None and self._clock.monotonic_s() < entry[1]:
            self._entries.move_to_end(key)
            if isinstance(entry[0], NotFound):
                DIRECTORY_READS.labels("missing").inc()
                raise NotFound(entry[0].detail)
            _HIT.inc()
            return entry[0]
        reading = self._reading.get(key)
        if reading is None:
            reading = asyncio.create_task(self._read(key, read))
            self._reading[key] = reading
            reading.add_done_callback(lambda done: self._done(key, done))
        # Shielded: a client that goes away must not cancel the read that others wait for.
        return await asyncio.shield(reading)

    async def _read(self, key: Hashable, read: Callable[[], Awaitable[_Value]]) -> _Value:
        # The answer's age counts from before it was read.
        now, drops = self._clock.monotonic_s(), self._drops
        outcome = "failed"
        try:
            value = await read()
            outcome = "read"
        except NotFound as missing:
            outcome = "missing"
            self._keep(key, missing, now + min(MISSING_FOR_S, self._cached_for_s), drops)
            raise
        except RateLimited:
            outcome = "refused"
            raise
        finally:
            DIRECTORY_READS.labels(outcome).inc()
        self._keep(key, value, now + self._cached_for_s, drops)
        return value

    def _keep(self, key: Hashable, value: _Value | NotFound, until: float, drops: int) -> None:
        if drops != self._drops:
            # Something was changed while this was read, and this may be from before.
            return
        self._entries[key] = (value, until)
        self._entries.move_to_end(key)
        if len(self._entries) > CACHED_MAX:
            self._entries.popitem(last=False)

    def _done(self, key: Hashable, reading: asyncio.Task[_Value]) -> None:
        if self._reading.get(key) is reading:
            del self._reading[key]
        if not reading.cancelled():
            # Looked at even where everybody who waited has gone, or asyncio would report it as forgotten.
            reading.exception()

    def was_known(self, key: Hashable) -> bool:
        """Whether the key existed when it was last read, however long ago that was."""
        entry = self._entries.get(key)
        return entry is not None and not isinstance(entry[0], NotFound)

    def drop(self, matches: Callable[[Hashable], bool]) -> None:
        """Forget the entries whose keys match, and what is being read of them."""
        self._drops += 1
        for key in [key for key in self._entries if matches(key)]:
            del self._entries[key]
        for key in [key for key in self._reading if matches(key)]:
            # Whoever waits still gets the answer; whoever comes now asks anew.
            del self._reading[key]


class _Guesses:
    """How many unknown keys may still be looked up: a bucket of `UNKNOWN_BURST`, refilled with `UNKNOWN_PER_S`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = float(UNKNOWN_BURST)
        self._at = clock.monotonic_s()

    @contextmanager
    def one(self) -> Iterator[None]:
        """
        Room for one lookup, given back unless it ends in `NotFound`.

        Taken in advance, so that many lookups at once don't all find the bucket full.

        Raises:
            RateLimited: there is none.
        """
        now = self._clock.monotonic_s()
        self._left = min(float(UNKNOWN_BURST), self._left + (now - self._at) * UNKNOWN_PER_S)
        self._at = now
        if self._left < 1:
            raise RateLimited("too many unknown API keys were tried", retry_after_s=1.0)
        self._left -= 1
        try:
            yield
        except NotFound:
            raise
        except BaseException:
            self._left += 1
            raise
        self._left += 1
