"""The ledger's write side on PostgreSQL: one transaction locks heads, drops repeats, gives positions, copies rows."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

from audit_backends.ledger import copy_rows
from audit_contracts.errors import AppendUnknown, InvariantBroken, LedgerUnavailable, NotFound
from audit_contracts.event import Event
from audit_contracts.ports.ledger import (
    BATCH_IDS_KEPT,
    HEAD_AHEAD_MAX,
    AppendResult,
    DeadLetter,
    PreparedBatch,
    StoredDeadLetter,
    Unwritable,
    WrappedOwnerKey,
)
from audit_contracts.principal import TenantId
from audit_contracts.times import from_us, to_us

DAYS_AHEAD: Final = 3

# The driver's internal error is what it says of a connection that was cut in the middle of something.
_NOT_REACHED: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
# What the content of a row can cause: data exceptions, and index entries past their bound.
_CONTENT: Final = (asyncpg.DataError, asyncpg.ProgramLimitExceededError, asyncpg.NotNullViolationError, UnicodeError)

_LOCK_HEADS: Final = """
SELECT tenant, log_id, next_position, recorded_at, auditlog.now() AS now
FROM auditlog.heads WHERE tenant = ANY ($1::text[]) ORDER BY tenant FOR UPDATE SKIP LOCKED
"""
_KNOWN_BATCHES: Final = """
SELECT tenant, batch_id FROM unnest($1::text[], $2::uuid[]) AS u (tenant, batch_id)
JOIN auditlog.batch_ids USING (tenant, batch_id)
"""
_KNOWN_IDS: Final = """
SELECT tenant, id, fingerprint FROM unnest($1::text[], $2::uuid[]) AS u (tenant, id)
JOIN auditlog.event_ids USING (tenant, id)
"""
_LATE_IDS: Final = """
SELECT tenant, id FROM unnest($1::text[], $2::uuid[]) AS u (tenant, id) JOIN auditlog.entries USING (tenant, id)
"""
_FINISH: Final = """
WITH batches AS (
    INSERT INTO auditlog.batch_ids (tenant, batch_id, recorded_at)
    SELECT * FROM unnest($1::text[], $2::uuid[], $3::timestamptz[])
), ids AS (
    INSERT INTO auditlog.event_ids (tenant, id, fingerprint, position)
    SELECT * FROM unnest($4::text[], $5::uuid[], $6::bytea[], $7::bigint[])
), moved AS (
    UPDATE auditlog.heads h SET next_position = u.next_position, recorded_at = u.recorded_at
    FROM unnest($8::text[], $9::bigint[], $10::timestamptz[]) AS u (tenant, next_position, recorded_at)
    WHERE h.tenant = u.tenant
)
INSERT INTO auditlog.spans AS s (tenant, day, first_position, last_position, first_recorded_at, last_recorded_at,
    min_timestamp, max_timestamp)
SELECT tenant, (recorded_at AT TIME ZONE 'UTC')::date, first, last, recorded_at, recorded_at, earliest, latest
FROM unnest($8::text[], $10::timestamptz[], $11::bigint[], $12::bigint[], $13::timestamptz[], $14::timestamptz[])
    AS u (tenant, recorded_at, first, last, earliest, latest)
ON CONFLICT (tenant, day) DO UPDATE SET last_position = excluded.last_position,
    last_recorded_at = excluded.last_recorded_at, min_timestamp = least(s.min_timestamp, excluded.min_timestamp),
    max_timestamp = greatest(s.max_timestamp, excluded.max_timestamp)
"""
_DEAD_LETTERS: Final = """
INSERT INTO auditlog.dead_letters (tenant, batch_id, ordinal, replay_batch_id, reason, detail, message)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::integer[], $4::uuid[], $5::text[], $6::text[], $7::bytea[])
ON CONFLICT DO NOTHING
"""


class _Head:
    """One tenant's locked head, and what this transaction puts behind it. All of it shares one `recorded_at`."""

    def __init__(self, row: asyncpg.Record) -> None:
        self.log_id: bytes = row["log_id"]
        self.first: int = row["next_position"]
        self.next = self.first
        before: datetime | None = row["recorded_at"]
        self.recorded_at: datetime = max(before, row["now"]) if before else row["now"]
        self.is_ahead = before is not None and before - row["now"] > HEAD_AHEAD_MAX
        self.recorded_at_us = to_us(self.recorded_at)
        self.earliest_us = 2**63
        self.latest_us = -(2**63)


class _DayMissing(Exception):
    """The partition of a head's time is not attached yet."""

    def __init__(self, day: date) -> None:
        self.day = day


class PostgresLedger:
    """The ports `Ledger` and `DeadLetters` over the projector's pool."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._attached: set[date] = set()
        self._encoder = copy_rows.RowEncoder()

    async def log_id(self, tenant: TenantId) -> bytes:
        found: bytes | None = await self._read(
            "fetchval", "SELECT log_id FROM auditlog.heads WHERE tenant = $1", tenant
        )
        if found is None:
            raise NotFound("there is no such tenant")
        return found

    async def owner_keys(
        self, tenant: TenantId, tenant_key_id: UUID, tags: Sequence[bytes]
    ) -> Mapping[bytes, WrappedOwnerKey]:
        rows = await self._read(
            "fetch",
            "SELECT key_id, tag, tenant_key_id, wrapped FROM auditlog.owner_keys "
            "WHERE tenant = $1 AND tenant_key_id = $2 AND tag = ANY ($3::bytea[])",
            tenant,
            tenant_key_id,
            tags,
        )
        return {row["tag"]: WrappedOwnerKey(*row) for row in rows}

    async def add_owner_keys(
        self, tenant: TenantId, keys: Sequence[WrappedOwnerKey]
    ) -> Mapping[bytes, WrappedOwnerKey]:
        await self._read(
            "execute",
            "INSERT INTO auditlog.owner_keys (tenant, key_id, tag, tenant_key_id, wrapped) "
            "SELECT $1, * FROM unnest($2::uuid[], $3::bytea[], $4::uuid[], $5::bytea[]) ON CONFLICT DO NOTHING",
            tenant,
            [key.key_id for key in keys],
            [key.tag for key in keys],
            [key.tenant_key_id for key in keys],
            [key.wrapped for key in keys],
        )
        return await self.owner_keys(tenant, keys[0].tenant_key_id, [key.tag for key in keys])

    async def known_ids(self, tenant: TenantId, ids: Sequence[UUID]) -> Mapping[UUID, bytes]:
        rows = await self._read("fetch", _KNOWN_IDS, [tenant] * len(ids), ids)
        return {row["id"]: row["fingerprint"] for row in rows}

    async def append(
        self, batches: Sequence[PreparedBatch], dead_letters: Sequence[DeadLetter] = (), *, dry_run: bool = False
    ) -> AppendResult:
        try:
            tails = [[self._encoder.tail(batch.tenant, event) for event in batch.events] for batch in batches]
        except (struct.error, UnicodeError) as exc:
            raise Unwritable("a value does not fit its column") from exc
        while True:
            try:
                return await self._append_once(batches, tails, dead_letters, dry_run)
            except _DayMissing as missing:
                await self._attach(missing.day)

    async def dead_letters(
        self, tenant: TenantId, *, after: int, limit: int, replayed: bool
    ) -> Sequence[StoredDeadLetter]:
        rows = await self._read(
            "fetch",
            "SELECT dead_letter_id, tenant, batch_id, ordinal, replay_batch_id, reason, detail, message, created_at, "
            "replayed_at FROM auditlog.dead_letters WHERE tenant = $1 AND dead_letter_id > $2 "
            "AND ($3 OR replayed_at IS NULL) ORDER BY dead_letter_id LIMIT $4",
            tenant,
            after,
            replayed,
            limit,
        )
        return [StoredDeadLetter(*row) for row in rows]

    async def mark_replayed(self, tenant: TenantId, dead_letter_ids: Sequence[int]) -> None:
        await self._read(
            "execute",
            "UPDATE auditlog.dead_letters SET replayed_at = auditlog.now() "
            "WHERE tenant = $1 AND dead_letter_id = ANY ($2::bigint[])",
            tenant,
            dead_letter_ids,
        )

    async def check(self) -> None:
        if await self._read("fetchval", "SELECT pg_is_in_recovery()"):
            raise LedgerUnavailable("the database is a standby and can't be written to")

    async def touch_api_keys(self, used_at: Mapping[tuple[TenantId, UUID], datetime]) -> None:
        await self._read(
            "execute",
            "SELECT auditlog.touch_api_keys($1::text[], $2::uuid[], $3::timestamptz[])",
            [tenant for tenant, _ in used_at],
            [key_id for _, key_id in used_at],
            list(used_at.values()),
        )

    async def housekeep(self) -> None:
        today: datetime = await self._read("fetchval", "SELECT auditlog.now()")
        await self._attach(today.astimezone(UTC).date())
        await self._read(
            "execute",
            "DELETE FROM auditlog.batch_ids WHERE recorded_at < auditlog.now() - $1::interval",
            BATCH_IDS_KEPT,
        )

    async def close(self) -> None:
        """Nothing to let go of: the pool belongs to who opened it."""

    async def _append_once(
        self,
        batches: Sequence[PreparedBatch],
        tails: Sequence[Sequence[bytes]],
        dead_letters: Sequence[DeadLetter],
        dry_run: bool,
    ) -> AppendResult:
        committing = False
        try:
            async with self._pool.acquire() as connection:
                transaction = connection.transaction(isolation="read_committed")
                await transaction.start()
                try:
                    result = await self._write(connection, batches, tails, dead_letters)
                except BaseException:
                    await transaction.rollback()
                    raise
                if dry_run:
                    await transaction.rollback()
                else:
                    committing = True
                    await transaction.commit()
                return result
        except _CONTENT as exc:
            raise Unwritable(getattr(exc, "sqlstate", type(exc).__name__)) from exc
        except asyncpg.UniqueViolationError as exc:
            raise InvariantBroken("a position, batch id or event id stands twice") from exc
        except (*_NOT_REACHED, asyncpg.PostgresError) as exc:
            if committing:
                raise AppendUnknown("the commit was lost from sight") from exc
            raise LedgerUnavailable("the ledger wrote nothing") from exc

    async def _write(
        self,
        connection: Any,
        batches: Sequence[PreparedBatch],
        tails: Sequence[Sequence[bytes]],
        dead_letters: Sequence[DeadLetter],
    ) -> AppendResult:
        heads = {
            row["tenant"]: _Head(row)
            for row in await connection.fetch(_LOCK_HEADS, list({batch.tenant for batch in batches}))
        }
        for head in heads.values():
            if not head.is_ahead and head.recorded_at.date() not in self._attached:
                raise _DayMissing(head.recorded_at.date())
        busy = [i for i, batch in enumerate(batches) if batch.tenant not in heads]
        ahead = [i for i, batch in enumerate(batches) if batch.tenant in heads and heads[batch.tenant].is_ahead]
        candidates = [i for i in range(len(batches)) if i not in {*busy, *ahead}]
        known = await _Known.read(connection, [batches[i] for i in candidates])

        done, stale, rows = [], [], [copy_rows.HEADER]
        batch_ids: list[tuple[TenantId, UUID, datetime]] = []
        event_ids: list[tuple[TenantId, UUID, bytes, int]] = []
        repeats = 0
        for i in candidates:
            batch, head = batches[i], heads[batches[i].tenant]
            if known.has_batch(batch):
                repeats += len(batch.events)
            elif batch.log_id != head.log_id or known.contradicts(batch):
                stale.append(i)
                continue
            else:
                repeats += _place(batch, tails[i], head, known, rows, event_ids)
                known.add_batch(batch)
                batch_ids.append((batch.tenant, batch.batch_id, head.recorded_at))
            done.append(i)

        grown = {tenant: head for tenant, head in heads.items() if head.next > head.first}
        if grown:
            rows.append(copy_rows.TRAILER)
            await connection.copy_to_table(
                "entries",
                schema_name="auditlog",
                columns=copy_rows.COLUMNS,
                format="binary",
                source=io.BytesIO(b"".join(rows)),
            )
        if batch_ids:
            await connection.execute(
                _FINISH,
                *_columns(batch_ids, 3),
                *_columns(event_ids, 4),
                list(grown),
                [head.next for head in grown.values()],
                [head.recorded_at for head in grown.values()],
                [head.first for head in grown.values()],
                [head.next - 1 for head in grown.values()],
                [from_us(head.earliest_us) for head in grown.values()],
                [from_us(head.latest_us) for head in grown.values()],
            )
        if dead_letters:
            await connection.execute(
                _DEAD_LETTERS,
                *_columns(
                    [
                        (d.tenant, d.batch_id, d.ordinal, d.replay_batch_id, d.reason, d.detail, d.message)
                        for d in dead_letters
                    ],
                    7,
                ),
            )
        appended = sum(head.next - head.first for head in grown.values())
        return AppendResult(done, busy, stale, ahead, appended, repeats)

    async def _attach(self, day: date) -> None:
        missing: date = await self._read("fetchval", "SELECT auditlog.attach_days($1, $2)", day, DAYS_AHEAD)
        self._attached = {day + timedelta(days=i) for i in range((missing - day).days)}

    async def _read(self, method: str, statement: str, *arguments: object) -> Any:
        try:
            return await getattr(self._pool, method)(statement, *arguments)
        except (*_NOT_REACHED, asyncpg.PostgresError) as exc:
            raise LedgerUnavailable("the ledger can't be reached") from exc


def _place(
    batch: PreparedBatch,
    tails: Sequence[bytes],
    head: _Head,
    known: _Known,
    rows: list[bytes],
    event_ids: list[tuple[TenantId, UUID, bytes, int]],
) -> int:
    """Put a batch's events behind the head, but for those that the ledger holds; answers how many those are."""
    times = []
    for prepared, tail in zip(batch.events, tails, strict=True):
        event = prepared.event
        if event.fingerprint is not None or batch.redelivered_late:
            if known.is_repeat(batch.tenant, event):
                continue
            if event.fingerprint is not None:
                event_ids.append((batch.tenant, event.id, event.fingerprint, head.next))
                known.add(batch.tenant, event.id, event.fingerprint)
        rows.append(copy_rows.head(head.log_id, head.next, head.recorded_at_us, prepared))
        rows.append(tail)
        times.append(event.timestamp_us)
        head.next += 1
    if times:
        head.earliest_us = min(head.earliest_us, *times)
        head.latest_us = max(head.latest_us, *times)
    return len(batch.events) - len(times)


class _Known:
    """Batch ids and event ids that the ledger holds already, or that this transaction has added."""

    def __init__(self) -> None:
        self._batches: set[tuple[str, UUID]] = set()
        self._ids: dict[tuple[str, UUID], bytes] = {}
        self._late: set[tuple[str, UUID]] = set()

    @classmethod
    async def read(cls, connection: Any, batches: Sequence[PreparedBatch]) -> _Known:
        """Look up, after the heads are locked, what these batches could repeat."""
        known = cls()
        if not batches:
            return known
        rows = await connection.fetch(_KNOWN_BATCHES, [b.tenant for b in batches], [b.batch_id for b in batches])
        known._batches = {(row["tenant"], row["batch_id"]) for row in rows}
        named = [(b.tenant, p.event.id) for b in batches for p in b.events if p.event.fingerprint is not None]
        if named:
            rows = await connection.fetch(_KNOWN_IDS, *_columns(named, 2))
            known._ids = {(row["tenant"], row["id"]): row["fingerprint"] for row in rows}
        late = [(b.tenant, p.event.id) for b in batches if b.redelivered_late for p in b.events]
        if late:
            known._late = {(row["tenant"], row["id"]) for row in await connection.fetch(_LATE_IDS, *_columns(late, 2))}
        return known

    def has_batch(self, batch: PreparedBatch) -> bool:
        return (batch.tenant, batch.batch_id) in self._batches

    def add_batch(self, batch: PreparedBatch) -> None:
        self._batches.add((batch.tenant, batch.batch_id))

    def add(self, tenant: TenantId, event_id: UUID, fingerprint: bytes) -> None:
        self._ids[tenant, event_id] = fingerprint

    def contradicts(self, batch: PreparedBatch) -> bool:
        """Whether an id of the batch is held, there or in the batch itself, with another fingerprint."""
        mine: dict[UUID, bytes] = {}
        for prepared in batch.events:
            event, fingerprint = prepared.event, prepared.event.fingerprint
            if fingerprint is not None:
                held = self._ids.get((batch.tenant, event.id)) or mine.setdefault(event.id, fingerprint)
                if held != fingerprint:
                    return True
        return False

    def is_repeat(self, tenant: TenantId, event: Event) -> bool:
        """Whether the ledger holds an event of a batch that doesn't contradict it."""
        key = (tenant, event.id)
        return (event.fingerprint is not None and key in self._ids) or key in self._late


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(width)]
