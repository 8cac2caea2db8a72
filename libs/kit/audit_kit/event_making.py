"""An entry becomes an event: masked, with the defaults filled in, its large fields serialised once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

import msgspec

from audit_contracts.event import Changes, Content, Entry, EntryIn, Event, Outcome, Severity
from audit_contracts.ids import uuid7
from audit_contracts.ports.tenant_directory import Tenant
from audit_contracts.principal import TenantId
from audit_contracts.times import from_us
from audit_kit.keyring import Keyring
from audit_kit.masking import Masker
from audit_kit.secret_keys import LookupKey
from audit_kit.tracing import current_trace

_HASH_KEY_LABEL: Final = b"auditlog/masking-hash/1\n"

_encode: Final = msgspec.json.Encoder().encode


async def masker_of(tenant: Tenant, keyring: Keyring) -> Masker:
    """
    The tenant's masking, for events and for filters that look for what it hashed.

    Raises:
        NotFound, DirectoryUnavailable, KeyUnavailable, SealBroken: the key of its hashes can't be had.
    """
    return masker_with(tenant, await keyring.lookup_key(tenant.tenant_id))


def masker_with(tenant: Tenant, lookup: LookupKey) -> Masker:
    """The same, with the tenant's key at hand."""
    return Masker(tenant.masking, lookup.masking.mac(_HASH_KEY_LABEL))


def own_events(masker: Masker, submitted_by: str, entries: Sequence[EntryIn], *, now_us: int) -> Iterator[Event]:
    """
    Events of what this process itself has to tell: of now, and of the request at hand.

    Raises:
        InvalidEntry: as `EventMaker.make`.
    """
    trace = current_trace()
    maker = EventMaker(masker=masker, submitted_by=submitted_by)
    for entry in entries:
        made = maker.make(
            entry,
            event_id=uuid7(now_us),
            timestamp_us=now_us,
            received_at_us=now_us,
            flags=[],
            trace_id=None if trace is None else trace.trace_id,
        )
        yield made.event


class MadeEvent(msgspec.Struct, frozen=True, gc=False):
    """An event, the masked entry that it was made of, and what was masked: pairs of JSON pointer and rule."""

    event: Event
    entry: EntryIn
    masked: Sequence[tuple[str, str]]

    def kept(self, tenant: TenantId) -> Entry:
        """The entry as the ledger will keep it; it has no position yet."""
        event, entry = self.event, self.entry
        return Entry(
            id=event.id,
            tenant_id=tenant,
            timestamp=from_us(event.timestamp_us),
            received_at=from_us(event.received_at_us),
            user_id=event.user_id,
            action=event.action,
            resource_type=event.resource_type,
            resource_id=event.resource_id,
            severity=event.severity,
            outcome=event.outcome,
            submitted_by=event.submitted_by,
            subject_id=event.subject_id,
            session_id=event.session_id,
            ip_address=event.ip_address,
            user_agent=event.user_agent,
            before=None if entry.before is None else msgspec.Raw(_encode(entry.before)),
            after=None if entry.after is None else msgspec.Raw(_encode(entry.after)),
            metadata=None if entry.metadata is None else msgspec.Raw(_encode(entry.metadata)),
            details=entry.details,
            request_id=event.request_id,
            correlation_id=event.correlation_id,
            trace_id=event.trace_id,
            source=event.source,
            producer_id=event.producer_id,
            producer_seq=event.producer_seq,
            flags=event.flags,
            masked=list(self.masked),
        )


class EventMaker:
    """Makes events of the entries that one principal of one tenant submits."""

    def __init__(self, *, masker: Masker, submitted_by: str) -> None:
        self._masker = masker
        fields, paths = masker.mask_fields({"submitted_by": submitted_by})
        self._submitted_by: str = fields["submitted_by"]
        self._masked_by_principal = paths

    def make(
        self,
        entry: EntryIn,
        *,
        event_id: UUID,
        timestamp_us: int,
        received_at_us: int,
        flags: list[str],
        trace_id: str | None = None,
        fingerprint: bytes | None = None,
    ) -> MadeEvent:
        """
        The event of an entry whose bounds were checked; `trace_id` is for an entry that has none.

        Raises:
            InvalidEntry: a field that is kept in clear holds what would have to be masked.
        """
        entry, masked = self._masker.mask(entry)
        if self._masked_by_principal:
            masked = masked + self._masked_by_principal
        changes = content = None
        if entry.before is not None or entry.after is not None:
            changes = _encode(Changes(before=entry.before, after=entry.after))
        if masked or entry.metadata is not None or entry.details is not None:
            content = _encode(Content(metadata=entry.metadata, details=entry.details, masked=masked))
        event = Event(
            id=event_id,
            action=entry.action,
            severity=entry.severity or Severity.INFO,
            outcome=entry.outcome or Outcome.UNKNOWN,
            resource_type=entry.resource_type,
            resource_id=entry.resource_id,
            timestamp_us=timestamp_us,
            received_at_us=received_at_us,
            user_id=entry.user_id,
            submitted_by=self._submitted_by,
            source=entry.source,
            subject_id=entry.subject_id,
            session_id=entry.session_id,
            ip_address=entry.ip_address,
            user_agent=entry.user_agent,
            request_id=entry.request_id,
            correlation_id=entry.correlation_id,
            trace_id=entry.trace_id or trace_id,
            producer_id=entry.producer_id,
            producer_seq=entry.producer_seq,
            flags=flags,
            changes=changes,
            content=content,
            fingerprint=fingerprint,
        )
        return MadeEvent(event, entry, masked)
