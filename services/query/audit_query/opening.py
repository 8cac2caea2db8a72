"""Rows of the ledger become entries that a reader can read."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec

from audit_contracts.event import Entry, Identity
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.ledger import LedgerReader, LedgerRow
from audit_contracts.principal import TenantId
from audit_contracts.record import DROPPED, OpenedRecord, OwnerKey, Sealer, key_id_of
from audit_kit.keyring import Keyring

OWNER_KEY_KEPT_S: Final = 60.0
"""How long an owner's entries may stay readable once the key was destroyed."""
OWNER_KEYS_MAX: Final = 20_000

# After so many rows (about a millisecond of work) others have their turn.
_ROWS_A_TURN: Final = 100
_PARTS: Final = ("resource", "identity", "changes", "content")


class _Changes(msgspec.Struct):
    """Slot 3 with its values left as they stand."""

    before: msgspec.Raw = msgspec.Raw()
    after: msgspec.Raw = msgspec.Raw()


class _Content(msgspec.Struct):
    """Slot 4 with its metadata left as it stands."""

    metadata: msgspec.Raw = msgspec.Raw()
    details: str | None = None
    masked: list[tuple[str, str]] = []


_resource_id: Final = msgspec.json.Decoder(str).decode
_identity: Final = msgspec.json.Decoder(Identity).decode
_changes: Final = msgspec.json.Decoder(_Changes).decode
_content: Final = msgspec.json.Decoder(_Content).decode


class RowOpener:
    """Opens rows with owner keys that it holds for a minute at most. Belongs to one event loop."""

    def __init__(self, *, reader: LedgerReader, keyring: Keyring, clock: Clock) -> None:
        self._reader = reader
        self._keyring = keyring
        self._clock = clock
        self._sealer = Sealer()
        # None stands for a key that was destroyed.
        self._held: OrderedDict[tuple[TenantId, UUID], tuple[OwnerKey | None, float]] = OrderedDict()

    async def open(self, tenant: TenantId, log_id: bytes, rows: Sequence[LedgerRow]) -> list[Entry]:
        """
        The entries of rows. One whose owner key was destroyed shows what is left of it, and says so in `erased`.

        Raises:
            SealBroken: a record does not open under its key.
            LedgerUnavailable, DirectoryUnavailable, KeyUnavailable: a key can't be had now.
        """
        key_ids = [key_id_of(row.sealed) for row in rows]
        keys = await self._keys(tenant, set(key_ids))
        entries = []
        for number, (row, key_id) in enumerate(zip(rows, key_ids, strict=True), start=1):
            key = keys[key_id]
            opened = None if key is None else self._sealer.open(log_id, row.id, row.sealed, key)
            entries.append(_entry(tenant, row, opened))
            if number % _ROWS_A_TURN == 0:
                await asyncio.sleep(0)
        return entries

    async def _keys(self, tenant: TenantId, key_ids: set[UUID]) -> Mapping[UUID, OwnerKey | None]:
        now = self._clock.monotonic_s()
        keys: dict[UUID, OwnerKey | None] = {}
        for key_id in key_ids:
            held = self._held.get((tenant, key_id))
            if held is not None and now < held[1]:
                keys[key_id] = held[0]
        missing = key_ids - keys.keys()
        if missing:
            found = await self._reader.owner_keys(tenant, list(missing))
            for key_id in missing:
                wrapped = found.get(key_id)
                if wrapped is None:
                    keys[key_id] = None
                else:
                    wrapping = await self._keyring.owner_wrapping_by_id(tenant, wrapped.tenant_key_id)
                    keys[key_id] = wrapping.open(wrapped)
                self._held[tenant, key_id] = (keys[key_id], now + OWNER_KEY_KEPT_S)
                self._held.move_to_end((tenant, key_id))
            while len(self._held) > OWNER_KEYS_MAX:
                self._held.popitem(last=False)
        return keys


def _entry(tenant: TenantId, row: LedgerRow, opened: OpenedRecord | None) -> Entry:
    entry = Entry(
        id=row.id,
        tenant_id=tenant,
        timestamp=row.timestamp,
        received_at=row.received_at,
        action=row.action,
        resource_type=row.resource_type,
        severity=row.severity,
        outcome=row.outcome,
        position=row.position,
        recorded_at=row.recorded_at,
        request_id=row.request_id,
        correlation_id=row.correlation_id,
        trace_id=row.trace_id,
        source=row.source,
        producer_id=row.producer_id,
        producer_seq=row.producer_seq,
        flags=list(row.flags or ()),
    )
    if opened is None:
        entry.erased = list(_PARTS)
        return entry
    entry.erased = [part for part, slot in zip(_PARTS, opened.slots, strict=True) if slot.state == DROPPED]
    resource, identity, changes, content = (opened.data(slot) for slot in (1, 2, 3, 4))
    if resource is not None:
        entry.resource_id = _resource_id(resource)
    if identity is not None:
        who = _identity(identity)
        entry.user_id, entry.submitted_by, entry.subject_id = who.user_id, who.submitted_by, who.subject_id
        entry.session_id, entry.ip_address, entry.user_agent = who.session_id, who.ip_address, who.user_agent
    if changes is not None:
        change = _changes(changes)
        entry.before, entry.after = _given(change.before), _given(change.after)
    if content is not None:
        what = _content(content)
        entry.metadata, entry.details, entry.masked = _given(what.metadata), what.details, what.masked
    return entry


def _given(raw: msgspec.Raw) -> msgspec.Raw | None:
    """The JSON as it stands, None where it is absent."""
    return raw if memoryview(raw).nbytes else None
