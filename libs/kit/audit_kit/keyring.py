"""A tenant's keys, unwrapped and ready for use, from a cache that the hot path can ask for each batch."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from audit_contracts.codec import TransportKey
from audit_contracts.errors import NotFound
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.key_store import KeyStore
from audit_contracts.ports.tenant_keys import ROTATING, KeyPurpose, TenantKey, TenantKeys
from audit_contracts.principal import TenantId
from audit_kit.secret_keys import LookupKey, OwnerWrapping, SecretKey

NEWEST_FOR_S: Final = 240.0
"""How long the newest generation is taken to be that; each process has taken up a rotation within 5 minutes."""
KEYS_MAX: Final = 10_000
"""Ready keys held for each purpose; at about a kilobyte each, 60 MB where all are in use."""

_Ready = TypeVar("_Ready")


class Keyring:
    """
    Keys by tenant and purpose: the newest generation to write with, any generation by its id to read with.

    Every method raises:
        NotFound: no such tenant, or the tenant has no key of this id and purpose.
        DirectoryUnavailable, KeyUnavailable: it can't be had now.
        SealBroken: the key store does not open what the directory holds.

    A cached key is answered without suspending. Tasks that miss together share one read, a task that is cancelled
    cancels no other's, and failures aren't remembered. One keyring belongs to one event loop.
    """

    def __init__(self, *, tenant_keys: TenantKeys, key_store: KeyStore, clock: Clock, keys_max: int = KEYS_MAX) -> None:
        def keys(purpose: KeyPurpose, make: Callable[[TenantKey, bytes], _Ready]) -> _Keys[_Ready]:
            return _Keys(purpose, make, tenant_keys, key_store, clock, keys_max)

        self._transport = keys(KeyPurpose.TRANSPORT, lambda key, plain: TransportKey(key.key_id, plain))
        self._owner = keys(KeyPurpose.OWNER, lambda key, plain: OwnerWrapping(key.tenant, key.key_id, plain))
        self._lookup = keys(KeyPurpose.LOOKUP, lambda key, plain: LookupKey(key.key_id, plain))
        self._digest = keys(KeyPurpose.DIGEST, lambda key, plain: SecretKey(key.key_id, plain))
        self._cursor = keys(KeyPurpose.CURSOR, lambda key, plain: SecretKey(key.key_id, plain))
        self._receipt = keys(KeyPurpose.RECEIPT, lambda key, plain: SecretKey(key.key_id, plain))

    async def transport_key(self, tenant: TenantId) -> TransportKey:
        """What to seal batches with."""
        return await self._transport.newest(tenant)

    async def transport_key_by_id(self, tenant: TenantId, key_id: UUID) -> TransportKey:
        """What a batch was sealed with."""
        return await self._transport.by_id(tenant, key_id)

    async def owner_wrapping(self, tenant: TenantId) -> OwnerWrapping:
        """What to wrap new owner keys with."""
        return await self._owner.newest(tenant)

    async def owner_wrapping_by_id(self, tenant: TenantId, tenant_key_id: UUID) -> OwnerWrapping:
        """What an owner key was wrapped with."""
        return await self._owner.by_id(tenant, tenant_key_id)

    async def lookup_key(self, tenant: TenantId) -> LookupKey:
        """For owner tags and hashes of masked values; never rotates."""
        return await self._lookup.newest(tenant)

    async def digest_key(self, tenant: TenantId) -> SecretKey:
        """For digests of what was sent; never rotates."""
        return await self._digest.newest(tenant)

    async def cursor_key(self, tenant: TenantId) -> SecretKey:
        """For new cursors."""
        return await self._cursor.newest(tenant)

    async def cursor_key_by_id(self, tenant: TenantId, key_id: UUID) -> SecretKey:
        """For a cursor that names it."""
        return await self._cursor.by_id(tenant, key_id)

    async def receipt_key(self, tenant: TenantId) -> SecretKey:
        """For new receipts."""
        return await self._receipt.newest(tenant)

    async def receipt_key_by_id(self, tenant: TenantId, key_id: UUID) -> SecretKey:
        """For a receipt that names it."""
        return await self._receipt.by_id(tenant, key_id)


class _Keys(Generic[_Ready]):
    """The cached keys of one purpose."""

    def __init__(
        self,
        purpose: KeyPurpose,
        make: Callable[[TenantKey, bytes], _Ready],
        tenant_keys: TenantKeys,
        key_store: KeyStore,
        clock: Clock,
        keys_max: int,
    ) -> None:
        self._purpose = purpose
        self._make = make
        self._tenant_keys = tenant_keys
        self._key_store = key_store
        self._clock = clock
        self._keys_max = keys_max
        self._newest_for_s = NEWEST_FOR_S if purpose in ROTATING else math.inf
        self._newest: OrderedDict[TenantId, tuple[_Ready, float]] = OrderedDict()
        # A generation never changes, so it stays until it is the one that was not used for longest.
        self._by_id: OrderedDict[tuple[TenantId, UUID], _Ready] = OrderedDict()
        self._loading: dict[Hashable, asyncio.Task[_Ready]] = {}

    async def newest(self, tenant: TenantId) -> _Ready:
        held = self._newest.get(tenant)
        if held is not None and self._clock.monotonic_s() < held[1]:
            self._newest.move_to_end(tenant)
            return held[0]
        return await self._shared(tenant, lambda: self._load_newest(tenant))

    async def by_id(self, tenant: TenantId, key_id: UUID) -> _Ready:
        held = self._by_id.get((tenant, key_id))
        if held is not None:
            self._by_id.move_to_end((tenant, key_id))
            return held
        return await self._shared((tenant, key_id), lambda: self._load_by_id(tenant, key_id))

    async def _load_newest(self, tenant: TenantId) -> _Ready:
        # It counts as the newest from before it was read.
        until = self._clock.monotonic_s() + self._newest_for_s
        ready = await self._opened(await self._tenant_keys.current(tenant, self._purpose))
        self._keep(self._newest, tenant, (ready, until))
        return ready

    async def _load_by_id(self, tenant: TenantId, key_id: UUID) -> _Ready:
        key = await self._tenant_keys.by_id(tenant, key_id)
        if key.purpose is not self._purpose:
            raise NotFound(f"the tenant has no {self._purpose.value} key of this id")
        return await self._opened(key)

    async def _opened(self, key: TenantKey) -> _Ready:
        """The key ready for use; a generation that is held already costs the key store nothing."""
        at = (key.tenant, key.key_id)
        ready = self._by_id.get(at)
        if ready is None:
            ready = self._make(key, await self._key_store.unwrap(key.tenant, key.purpose.value, key.wrapped))
            self._keep(self._by_id, at, ready)
        return ready

    def _keep(self, held: OrderedDict[Any, Any], at: Hashable, value: object) -> None:
        held[at] = value
        held.move_to_end(at)
        if len(held) > self._keys_max:
            held.popitem(last=False)

    async def _shared(self, at: Hashable, load: Callable[[], Coroutine[Any, Any, _Ready]]) -> _Ready:
        loading = self._loading.get(at)
        if loading is None:
            loading = self._loading[at] = asyncio.create_task(load())
            loading.add_done_callback(lambda done: self._loaded(at, done))
        # Shielded: who goes away must not cancel the read that others wait for.
        return await asyncio.shield(loading)

    def _loaded(self, at: Hashable, loading: asyncio.Task[_Ready]) -> None:
        del self._loading[at]
        if not loading.cancelled():
            # Looked at even where everybody who waited has gone, or asyncio would report it as forgotten.
            loading.exception()
