"""Changes through admin as events, sealed before they are committed so that the record is part of the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from audit_contracts.codec import BatchCodec, TransportKey
from audit_contracts.errors import TooLarge
from audit_contracts.event import ACCESS_SOURCE, EntryIn, Outcome
from audit_contracts.ids import uuid7
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.event_queue import Message
from audit_contracts.ports.tenant_directory import Tenant, TenantDirectory
from audit_contracts.ports.tenant_keys import KeyPurpose, NewTenantKey
from audit_contracts.principal import Principal, TenantId
from audit_kit.event_making import masker_with, own_events
from audit_kit.keyring import Keyring
from audit_kit.secret_keys import LookupKey

CHANGE: Final = "auditlog.change"


class ChangeRecorder:
    """
    Gets ready what it takes to record changes, before they are begun: no change waits for keys while it holds locks.

    Belongs to one event loop. `message_bytes_max` is what a message of the event queue can carry.
    """

    def __init__(self, *, keyring: Keyring, directory: TenantDirectory, clock: Clock, message_bytes_max: int) -> None:
        self._keyring = keyring
        self._directory = directory
        self._sealing = _Sealing(clock, message_bytes_max, BatchCodec())

    async def record(self, principal: Principal, *, of: TenantId) -> ChangeRecord:
        """
        The record of a change that the principal is about to make to the tenant `of`.

        Raises:
            NotFound, DirectoryUnavailable, KeyUnavailable, SealBroken: it could not be recorded.
        """
        logs = dict.fromkeys((of, principal.tenant))
        return ChangeRecord(self._sealing, principal, of, await asyncio.gather(*map(self._log, logs)))

    async def record_of_new(self, principal: Principal) -> NewTenantRecord:
        """The record of a tenant that the principal is about to create. Raises as `record`."""
        return NewTenantRecord(self._sealing, principal, await self._log(principal.tenant))

    async def _log(self, tenant: TenantId) -> _Log:
        return _Log(
            await self._directory.tenant(tenant),
            await self._keyring.lookup_key(tenant),
            await self._keyring.transport_key(tenant),
        )


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """A change that is told in the log of the tenant it is made to, and in its maker's own where that is another."""

    _sealing: _Sealing
    _principal: Principal
    _of: TenantId
    _logs: Sequence[_Log]

    def under(self, tenant: Tenant) -> ChangeRecord:
        """The same, masked in the tenant's own log as the policy says that the change leaves it with."""
        logs = [replace(log, tenant=tenant) if log.tenant.tenant_id == self._of else log for log in self._logs]
        return replace(self, _logs=logs)

    def messages(
        self, operation: str, resource: tuple[str, str], *, before: Any = None, after: Any = None
    ) -> list[Message]:
        """
        The sealed record, one message a log.

        Args:
            operation: what was done, `[a-z_]+`.
            resource: type and id of what it was done to.
            before, after: JSON. They are masked; a key's secret never is in them.

        Raises:
            InvalidEntry: it can't be kept as the masking demands.
            TooLarge: no message of the queue could carry it.
        """
        entry = EntryIn(
            user_id=self._principal.subject,
            action=f"{CHANGE}.{operation}",
            resource_type=resource[0],
            resource_id=resource[1],
            before=before,
            after=after,
            metadata={"tenant": self._of},
            source=ACCESS_SOURCE,
            outcome=Outcome.SUCCESS,
        )
        return [self._sealing.message(log, self._principal.name, entry) for log in self._logs]


@dataclass(frozen=True, slots=True)
class NewTenantRecord:
    """The record of a tenant's creation, whose own log begins with it."""

    _sealing: _Sealing
    _principal: Principal
    _own: _Log

    def of(self, tenant: Tenant, keys: Mapping[KeyPurpose, NewTenantKey]) -> ChangeRecord:
        """It, once the tenant and its keys are made."""
        lookup, transport = keys[KeyPurpose.LOOKUP], keys[KeyPurpose.TRANSPORT]
        log = _Log(tenant, LookupKey(lookup.key_id, lookup.plain), TransportKey(transport.key_id, transport.plain))
        return ChangeRecord(self._sealing, self._principal, tenant.tenant_id, [log, self._own])


@dataclass(frozen=True, slots=True)
class _Log:
    tenant: Tenant
    lookup: LookupKey
    transport: TransportKey


@dataclass(frozen=True, slots=True)
class _Sealing:
    clock: Clock
    message_bytes_max: int
    codec: BatchCodec

    def message(self, log: _Log, submitted_by: str, entry: EntryIn) -> Message:
        now_us, tenant = self.clock.now_us(), log.tenant.tenant_id
        events = list(own_events(masker_with(log.tenant, log.lookup), submitted_by, [entry], now_us=now_us))
        batch_id = uuid7(now_us)
        body = self.codec.seal(tenant, batch_id, now_us, events, log.transport)
        if len(body) > self.message_bytes_max:
            raise TooLarge(
                "the change's record is larger than a message of the queue may be", limit_bytes=self.message_bytes_max
            )
        return Message(tenant, batch_id, body)
