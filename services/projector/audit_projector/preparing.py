"""From a message to rows ready for a locked head: open the batch, find owners' keys, commit to slots and seal them."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar, TypeVarTuple
from uuid import UUID

import msgspec

from audit_contracts.codec import BatchCodec, BatchHead, TransportKey, read_head
from audit_contracts.errors import KeyUnavailable, SealBroken
from audit_contracts.event import FLAG_CONFLICT_OF, Event
from audit_contracts.ids import conflict_id
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.event_queue import Delivery
from audit_contracts.ports.ledger import BATCH_IDS_KEPT, Ledger, PreparedBatch, PreparedEvent
from audit_contracts.principal import TenantId
from audit_contracts.record import OwnerKey, Sealer
from audit_kit.keyring import Keyring

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

OWNER_KEYS_CACHED_MAX: Final = 50_000
THREAD_EVENTS_MIN: Final = 64
"""Fewer events than this take less time (1 ms) than it is worth to hand them to a thread."""
_LATE_US: Final = int((BATCH_IDS_KEPT.total_seconds() - 86_400) * 1_000_000)
"""A day short of what is kept, so that no clock's error falls between the two ways."""


class OpenedBatch(msgspec.Struct, frozen=True):
    """A delivery whose seal held."""

    delivery: Delivery
    head: BatchHead
    events: Sequence[Event]


class Preparer:
    """
    Opens and seals in one thread of its own, so that the loop goes on serving while the CPU works.

    Nothing here locks or writes, but for new owner keys.
    """

    def __init__(self, *, ledger: Ledger, keyring: Keyring, clock: Clock) -> None:
        self._ledger = ledger
        self._keyring = keyring
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sealing")
        self._tools = _Tools()
        self._log_ids: dict[TenantId, bytes] = {}
        self._owner_keys: OrderedDict[tuple[TenantId, UUID, str], OwnerKey] = OrderedDict()

    async def open(self, delivery: Delivery) -> OpenedBatch:
        """
        The events of a delivery.

        Raises:
            SealBroken: altered, cut, or another tenant's.
            NotFound: the tenant or its key does not exist.
            KeyUnavailable, DirectoryUnavailable: can't be known now.
        """
        head = read_head(delivery.body)
        with _keys_waited_for():
            key = await self._keyring.transport_key_by_id(delivery.tenant, head.key_id)
        events = await self._work(head.count, self._open, delivery, key)
        return OpenedBatch(delivery, head, events)

    async def prepare(self, opened: OpenedBatch) -> PreparedBatch:
        """
        The batch sealed for the tenant's log as it is known now.

        Raises:
            NotFound: there is no such tenant.
            LedgerUnavailable, KeyUnavailable, DirectoryUnavailable: can't be known now.
        """
        tenant = opened.delivery.tenant
        log_id = self._log_ids.get(tenant)
        if log_id is None:
            log_id = self._log_ids[tenant] = await self._ledger.log_id(tenant)
        events = await self._resolve_conflicts(tenant, log_id, opened.events)
        with _keys_waited_for():
            keys = await self._keys_of(tenant, {event.owner for event in events})
        sealed = await self._work(len(events), self._seal_all, log_id, events, keys)
        age_us = self._clock.now_us() - opened.head.made_at_us
        return PreparedBatch(tenant, log_id, opened.head.batch_id, sealed, redelivered_late=age_us > _LATE_US)

    async def prepare_anew(self, opened: OpenedBatch) -> PreparedBatch:
        """`prepare` for a batch that the ledger found stale: nothing remembered about its tenant is trusted."""
        self._log_ids.pop(opened.delivery.tenant, None)
        return await self.prepare(opened)

    async def seal_for_replay(self, tenant: TenantId, replay_batch_id: UUID, made_at_us: int, event: Event) -> bytes:
        """A message of this one event, to be kept as a dead letter."""
        key = await self._keyring.transport_key(tenant)
        return self._tools.codec.seal(tenant, replay_batch_id, made_at_us, [event], key)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    async def _resolve_conflicts(self, tenant: TenantId, log_id: bytes, events: Sequence[Event]) -> Sequence[Event]:
        """Events whose id the ledger, or an earlier one of the batch, holds with another fingerprint get another id."""
        named = [event.id for event in events if event.fingerprint is not None]
        if not named:
            return events
        held = dict(await self._ledger.known_ids(tenant, named))
        resolved: list[Event] = []
        for event in events:
            fingerprint = event.fingerprint
            if fingerprint is None or held.setdefault(event.id, fingerprint) == fingerprint:
                resolved.append(event)
            else:
                moved = msgspec.structs.replace(
                    event,
                    id=conflict_id(log_id, event.id, fingerprint),
                    flags=[*event.flags, f"{FLAG_CONFLICT_OF}:{event.id}"],
                )
                resolved.append(moved)
        return resolved

    async def _keys_of(self, tenant: TenantId, owners: set[str]) -> Mapping[str, OwnerKey]:
        wrapping = await self._keyring.owner_wrapping(tenant)
        found: dict[str, OwnerKey] = {}
        unknown: dict[bytes, str] = {}
        lookup = await self._keyring.lookup_key(tenant)
        for owner in owners:
            key = self._owner_keys.get((tenant, wrapping.tenant_key_id, owner))
            if key is None:
                unknown[lookup.owner_tag(owner)] = owner
            else:
                found[owner] = key
        if unknown:
            wrapped = dict(await self._ledger.owner_keys(tenant, wrapping.tenant_key_id, list(unknown)))
            new = [wrapping.new(tag)[0] for tag in unknown if tag not in wrapped]
            if new:
                wrapped.update(await self._ledger.add_owner_keys(tenant, new))
            for tag, owner in unknown.items():
                key = found[owner] = wrapping.open(wrapped[tag])
                self._owner_keys[tenant, wrapping.tenant_key_id, owner] = key
            while len(self._owner_keys) > OWNER_KEYS_CACHED_MAX:
                self._owner_keys.popitem(last=False)
        return found

    def _seal_all(self, log_id: bytes, events: Sequence[Event], keys: Mapping[str, OwnerKey]) -> list[PreparedEvent]:
        seal = self._tools.sealer.seal
        return [PreparedEvent(event, seal(log_id, event, keys[event.owner])) for event in events]

    def _open(self, delivery: Delivery, key: TransportKey) -> list[Event]:
        return self._tools.codec.open(delivery.tenant, delivery.body, key)

    async def _work(self, events: int, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        if events < THREAD_EVENTS_MIN:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


@contextmanager
def _keys_waited_for() -> Iterator[None]:
    """A key that does not open, as under a wrong root, says nothing about the batch: that waits until it does."""
    try:
        yield
    except SealBroken as exc:
        raise KeyUnavailable("a key of the tenant does not open under this root") from exc


class _Tools(threading.local):
    """What belongs to one thread: contexts of compression."""

    def __init__(self) -> None:
        self.codec = BatchCodec()
        self.sealer = Sealer()
