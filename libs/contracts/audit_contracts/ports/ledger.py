"""
The ledger: each tenant's records at positions 0, 1, 2 …, written once by the projector (`Ledger`), read by query
(`LedgerReader`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import msgspec

from audit_contracts.event import Event
from audit_contracts.principal import TenantId
from audit_contracts.query import Direction, Filter, Sight
from audit_contracts.record import SealedRecord


class WrappedOwnerKey(msgspec.Struct, frozen=True):
    """
    An owner's key wrapped under the tenant's key of purpose `owner`.

    `tag` is 16 bytes of an HMAC of the owner, so that the table names nobody. `tenant_key_id` is the generation that
    wraps it; after a rotation an owner gets a key of the new one.
    """

    key_id: UUID
    tag: bytes
    tenant_key_id: UUID
    wrapped: bytes


BATCH_IDS_KEPT = timedelta(days=28)
"""How long a batch's id is remembered; an older batch goes the slower way by the ids of its events."""
HEAD_AHEAD_MAX = timedelta(minutes=5)


class PreparedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event, and its record sealed for one log."""

    event: Event
    record: SealedRecord


class PreparedBatch(msgspec.Struct, frozen=True):
    """
    The events of one message, sealed before any lock is taken.

    `log_id` is the log that they are sealed for. `redelivered_late` marks a batch older than batch ids are kept for:
    all of its ids are then compared with the ledger.
    """

    tenant: TenantId
    log_id: bytes
    batch_id: UUID
    events: Sequence[PreparedEvent]
    redelivered_late: bool = False


class DeadLetter(msgspec.Struct, frozen=True):
    """
    What could not be written, with the reason. `message` is ready to be sent to the event queue again under
    `replay_batch_id`; it is sealed like any other.
    """

    tenant: TenantId
    batch_id: UUID
    ordinal: int | None
    replay_batch_id: UUID
    reason: str
    detail: str
    message: bytes


class StoredDeadLetter(msgspec.Struct, frozen=True):
    """A dead letter as it is listed. `ordinal` is None where a whole message is dead."""

    dead_letter_id: int
    tenant: TenantId
    batch_id: UUID
    ordinal: int | None
    replay_batch_id: UUID
    reason: str
    detail: str
    message: bytes
    created_at: datetime
    replayed_at: datetime | None


class AppendResult(msgspec.Struct, frozen=True):
    """
    What became of the batches of one call, by their index.

    `done`: in the ledger, now or before. `busy`: another writer holds the tenant's head. `stale`: the sealed events no
    longer fit what the ledger holds (an id was taken meanwhile, or the log is another); prepare them anew. `ahead`: the
    tenant's head is more than five minutes ahead of the clock; its ledger stands still until the clock agrees.
    `appended` and `repeats` count events.
    """

    done: Sequence[int]
    busy: Sequence[int]
    stale: Sequence[int]
    ahead: Sequence[int]
    appended: int
    repeats: int


class Unwritable(Exception):
    """The database refuses the content of these batches; nothing of the call was written. Bisect to find which."""


class Ledger(Protocol):
    """What the projector writes through. One transaction a call of `append`."""

    async def log_id(self, tenant: TenantId) -> bytes:
        """
        The tenant's log (16 bytes).

        Raises:
            NotFound: there is no such tenant.
            LedgerUnavailable: it can't be read now.
        """

    async def owner_keys(
        self, tenant: TenantId, tenant_key_id: UUID, tags: Sequence[bytes]
    ) -> Mapping[bytes, WrappedOwnerKey]:
        """Those owner keys under the tenant key that exist, by tag."""

    async def add_owner_keys(
        self, tenant: TenantId, keys: Sequence[WrappedOwnerKey]
    ) -> Mapping[bytes, WrappedOwnerKey]:
        """Keep new owner keys, and answer by tag those that count: another writer's where it was first."""

    async def known_ids(self, tenant: TenantId, ids: Sequence[UUID]) -> Mapping[UUID, bytes]:
        """The fingerprints of those ids made by clients or from keys that the ledger holds."""

    async def append(
        self, batches: Sequence[PreparedBatch], dead_letters: Sequence[DeadLetter] = (), *, dry_run: bool = False
    ) -> AppendResult:
        """
        Write batches of any tenants, each tenant's in the order given, and dead letters, in one transaction.

        When this returns they survive loss of process and power. A batch whose id is known adds nothing; an event
        whose client-made id is held with the same fingerprint adds nothing. Positions are the tenant's next, without
        gaps; `recorded_at` never goes back. With `dry_run` everything is tried and nothing is kept.

        Args:
            batches: 0 to 1,000, together at most 20,000 events.
            dead_letters: recorded with the batches; a repeat of (tenant, batch id, ordinal) adds nothing.

        Raises:
            Unwritable: the database refuses the content; nothing was written.
            LedgerUnavailable: nothing was written.
            AppendUnknown: the commit was lost from sight; append the same batches again.
        """

    async def check(self) -> None:
        """
        That the ledger can be written to.

        Raises:
            LedgerUnavailable: not now.
        """

    async def touch_api_keys(self, used_at: Mapping[tuple[TenantId, UUID], datetime]) -> None:
        """Note when API keys were last used, as read from what they submitted; an older use changes nothing."""

    async def housekeep(self) -> None:
        """Make room for the days ahead, and forget batch ids of more than 28 days ago. To be called each hour."""

    async def close(self) -> None:
        """Let go of connections."""


class DeadLetters(Protocol):
    """What an operator does about dead letters."""

    async def dead_letters(
        self, tenant: TenantId, *, after: int, limit: int, replayed: bool
    ) -> Sequence[StoredDeadLetter]:
        """Dead letters of the tenant with ids above `after`, oldest first; replayed ones only where asked for."""

    async def mark_replayed(self, tenant: TenantId, dead_letter_ids: Sequence[int]) -> None:
        """Note that their messages were sent again."""


class Head(msgspec.Struct, frozen=True):
    """How far a tenant's ledger has come: the next position, and when the one before it was recorded."""

    log_id: bytes
    next_position: int
    recorded_at: datetime | None


class LedgerRow(msgspec.Struct, frozen=True):
    """A row as it stands: columns in clear, and the sealed record."""

    position: int
    recorded_at: datetime
    id: UUID
    action: str
    severity: str
    outcome: str
    resource_type: str
    source: str | None
    timestamp: datetime
    received_at: datetime
    request_id: str | None
    correlation_id: str | None
    trace_id: str | None
    producer_id: str | None
    producer_seq: int | None
    schema_version: int
    flags: Sequence[str] | None
    core_salt: bytes
    root: bytes
    leaf_hash: bytes
    sealed: bytes


class Slice(msgspec.Struct, frozen=True):
    """
    A part of the walk through a tenant's ledger.

    `rows` match the filter, in the walk's direction. `next_position` is where the walk goes on (the next position to
    look at, inclusive), None where nothing is left. `scanned` counts what was looked at, against the budget.
    """

    rows: Sequence[LedgerRow]
    next_position: int | None
    scanned: int


class LedgerReader(Protocol):
    """What query reads through. Each call is one transaction bound to its tenant."""

    async def head(self, tenant: TenantId) -> Head:
        """
        The watermark.

        Raises:
            NotFound: there is no such tenant.
            LedgerUnavailable: it can't be read now.
        """

    async def walk(
        self,
        tenant: TenantId,
        *,
        filter: Filter,
        sight: Sight,
        direction: Direction,
        start: int | None,
        size: int | None,
        limit: int,
        budget: int,
    ) -> tuple[Head, Slice]:
        """
        Rows that match, in position order, from `start` on (None: the end that the direction begins at).

        Args:
            size: only positions below it exist for this reader; None: the head's next position now, which is
                answered, so that later pages can pin it.
            limit: rows at most, 1 to 1,000.
            budget: positions or index entries to look at, at most, before a short or empty slice is answered.

        Raises:
            LedgerUnavailable: nothing was read.
        """

    async def count(
        self,
        tenant: TenantId,
        *,
        filter: Filter,
        sight: Sight,
        size: int,
        budget: int,
        count_max: int,
    ) -> tuple[int, bool]:
        """How many match below `size`, and whether that is exact: counting stops at `count_max` or the budget."""

    async def row(self, tenant: TenantId, entry_id: UUID, *, sight: Sight) -> tuple[Head, LedgerRow | None]:
        """
        The entry of this id that the reader may see, or None.

        Raises:
            NotFound: there is no such tenant.
            LedgerUnavailable: it can't be read now.
        """

    async def owner_keys(self, tenant: TenantId, key_ids: Sequence[UUID]) -> Mapping[UUID, WrappedOwnerKey]:
        """Owner keys by id; one that was destroyed is missing."""

    async def check(self) -> None:
        """
        That the ledger can be read.

        Raises:
            LedgerUnavailable: not now.
        """

    async def close(self) -> None:
        """Let go of connections."""
