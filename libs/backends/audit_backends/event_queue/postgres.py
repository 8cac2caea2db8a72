"""The embedded event queue: a PostgreSQL table, SKIP LOCKED, NOTIFY as a wake-up and never as the truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from audit_contracts.errors import NotDone, OutcomeUnknown, QueueFull, QueueUnavailable, SendUnknown
from audit_contracts.ports.event_queue import Delivery, Message, QueueDepth
from audit_contracts.principal import TenantId

MESSAGE_BYTES_MAX: Final = 1_048_576
"""As long as the longest message that SQS takes, so that a batch fits whatever queue it meets."""
QUEUE_BYTES_MAX: Final = 8 * 1024**3

_CHANNEL: Final = "auditlog_queue"
_POLL_S: Final = 1.0
"""How long a message can go unseen whose notification was lost, or whose delay has run out."""
# The driver's internal error is what it says of a connection that was cut in the middle of something.
_NOT_REACHED: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
_DEPTH_REST: Final = 20
"""Depth is asked for at most 1/20 of the time, since counting a long queue takes long."""

_SEND: Final = """
INSERT INTO auditlog_queue.messages (tenant, batch_id, body)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::bytea[])
"""

# Tenants by a loose index scan; of each its oldest visible messages; then everyone's first before anyone's second, and
# of more tenants than fit those behind the last one served ($3). Four times as many as are wanted, since other
# receivers look at the same ones at this moment.
_RECEIVE: Final = """
WITH RECURSIVE turn AS (
    (SELECT tenant FROM auditlog_queue.messages ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT m.tenant FROM auditlog_queue.messages m WHERE m.tenant > t.tenant ORDER BY m.tenant LIMIT 1)
    FROM turn t WHERE t.tenant IS NOT NULL
), ranked AS (
    SELECT m.message_id, t.tenant, row_number() OVER (PARTITION BY t.tenant ORDER BY m.message_id) AS rank
    FROM turn t CROSS JOIN LATERAL (
        SELECT message_id FROM auditlog_queue.messages
        WHERE tenant = t.tenant AND visible_at <= auditlog.now()
        ORDER BY message_id LIMIT 4 * $1
    ) m
), candidates AS (
    SELECT * FROM unnest(ARRAY(
        SELECT message_id FROM ranked ORDER BY rank, tenant <= $3, tenant LIMIT 4 * $1
    )) WITH ORDINALITY AS c (message_id, turn)
), picked AS (
    SELECT m.message_id, c.turn FROM candidates c JOIN auditlog_queue.messages m USING (message_id)
    WHERE m.visible_at <= auditlog.now()
    ORDER BY c.turn LIMIT $1 FOR UPDATE OF m SKIP LOCKED
)
UPDATE auditlog_queue.messages m
SET visible_at = auditlog.now() + make_interval(secs => $2), receives = receives + 1, receipt = gen_random_uuid()
FROM picked p WHERE m.message_id = p.message_id
RETURNING m.message_id, m.tenant, m.body, m.receipt, m.receives, p.turn
"""

_HIDE: Final = """
UPDATE auditlog_queue.messages m SET visible_at = auditlog.now() + make_interval(secs => $3)
FROM unnest($1::bigint[], $2::uuid[]) AS d (message_id, receipt)
WHERE m.message_id = d.message_id AND m.receipt = d.receipt
"""

# A receipt taken back: what comes later about this delivery is passed over.
_RELEASE: Final = """
UPDATE auditlog_queue.messages m SET visible_at = auditlog.now() + make_interval(secs => $3), receipt = NULL
FROM unnest($1::bigint[], $2::uuid[]) AS d (message_id, receipt)
WHERE m.message_id = d.message_id AND m.receipt = d.receipt
"""

_DELETE: Final = """
DELETE FROM auditlog_queue.messages m USING unnest($1::bigint[], $2::uuid[]) AS d (message_id, receipt)
WHERE m.message_id = d.message_id AND m.receipt = d.receipt
"""


class PostgresEventQueue:
    """The port `EventQueue` over one pool, whose login decides what it may do: send, receive, or both."""

    message_bytes_max = MESSAGE_BYTES_MAX

    def __init__(self, pool: asyncpg.Pool[Any], *, queue_bytes_max: int = QUEUE_BYTES_MAX) -> None:
        self._pool = pool
        self._queue_bytes_max = queue_bytes_max
        self._full = False
        self._depth_due_s = 0.0
        self._notifying: asyncio.Task[None] | None = None
        self._notify_again = False
        self._listener: PoolConnectionProxy[Any] | None = None
        self._listening = asyncio.Lock()
        self._wake = asyncio.Event()
        self._last_served = ""

    async def send(self, messages: Sequence[Message]) -> Sequence[NotDone | OutcomeUnknown | None]:
        try:
            if await self._is_full():
                return [QueueFull("the event queue is at its bound", retry_after_s=5.0)] * len(messages)
            connection = await self._pool.acquire()
        except (*_NOT_REACHED, asyncpg.PostgresError) as exc:
            return [_unavailable(exc)] * len(messages)
        try:
            await connection.execute(
                _SEND,
                [message.tenant for message in messages],
                [message.batch_id for message in messages],
                [message.body for message in messages],
            )
        except _NOT_REACHED as exc:
            return [_unknown(exc)] * len(messages)
        except asyncpg.PostgresError as exc:
            # An error that the server tells is a statement undone, except where it ends the session at the commit.
            lost = isinstance(exc, asyncpg.OperatorInterventionError)
            return [_unknown(exc) if lost else _unavailable(exc)] * len(messages)
        finally:
            with suppress(*_NOT_REACHED, asyncpg.PostgresError):
                await self._pool.release(connection)
        self._notify()
        return [None] * len(messages)

    async def receive(self, *, messages_max: int, wait_s: float, visibility_s: float) -> Sequence[Delivery]:
        until_s = time.monotonic() + wait_s
        try:
            await self._listen()
            while True:
                wake = self._wake  # taken before the look, so that no notification falls between look and wait
                rows = await self._pool.fetch(_RECEIVE, messages_max, visibility_s, self._last_served)
                left_s = until_s - time.monotonic()
                if rows or left_s <= 0:
                    # In turn, since UPDATE … RETURNING knows no order: each tenant's first, the oldest, before anyone's
                    # second. Who writes them in this order lets no tenant wait for all messages of another.
                    rows.sort(key=lambda row: row["turn"])
                    served = {row["tenant"] for row in rows}
                    self._last_served = max(served, key=lambda t: (t <= self._last_served, t), default="")
                    return [
                        Delivery(
                            TenantId(row["tenant"]),
                            row["body"],
                            f"{row['message_id']}:{row['receipt']}",
                            row["receives"],
                        )
                        for row in rows
                    ]
                with suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), min(left_s, _POLL_S))
        except (*_NOT_REACHED, asyncpg.PostgresError) as exc:
            raise QueueUnavailable("the event queue can't be reached") from exc

    async def extend(self, deliveries: Sequence[Delivery], *, visibility_s: float) -> None:
        await self._each(_HIDE, deliveries, visibility_s)

    async def release(self, deliveries: Sequence[Delivery], *, delay_s: float) -> None:
        await self._each(_RELEASE, deliveries, delay_s)
        if not delay_s:
            self._notify()

    async def delete(self, deliveries: Sequence[Delivery]) -> None:
        await self._each(_DELETE, deliveries)

    async def depth(self) -> QueueDepth:
        try:
            row = await self._pool.fetchrow("SELECT * FROM auditlog_queue.depth()")
        except (*_NOT_REACHED, asyncpg.PostgresError) as exc:
            raise QueueUnavailable("the event queue can't be reached") from exc
        assert row is not None  # noqa: S101 - an aggregate always answers one row
        return QueueDepth(*row)

    async def close(self) -> None:
        if self._notifying is not None:
            await self._notifying
        await self._stop_listening()

    async def _each(self, statement: str, deliveries: Sequence[Delivery], *arguments: float) -> None:
        ids, receipts = [], []
        for delivery in deliveries:
            message_id, _, receipt = delivery.receipt.partition(":")
            ids.append(int(message_id))
            receipts.append(UUID(receipt))
        try:
            await self._pool.execute(statement, ids, receipts, *arguments)
        except (*_NOT_REACHED, asyncpg.PostgresError) as exc:
            raise QueueUnavailable("the event queue can't be reached") from exc

    async def _is_full(self) -> bool:
        if (now_s := time.monotonic()) >= self._depth_due_s:
            self._depth_due_s = now_s + _POLL_S  # others go on with the last answer meanwhile
            row = await self._pool.fetchrow("SELECT bytes FROM auditlog_queue.depth()")
            self._full = row is not None and row["bytes"] >= self._queue_bytes_max
            took_s = time.monotonic() - now_s
            self._depth_due_s = now_s + max(_POLL_S, _DEPTH_REST * took_s)
        return self._full

    def _notify(self) -> None:
        # Apart from the insert: NOTIFY inside it would put all commits in single file.
        self._notify_again = True
        if self._notifying is None or self._notifying.done():
            self._notifying = asyncio.create_task(self._notify_all(), name="queue-notify")

    async def _notify_all(self) -> None:
        while self._notify_again:
            self._notify_again = False
            with suppress(*_NOT_REACHED, asyncpg.PostgresError):
                await self._pool.execute("SELECT pg_notify($1, '')", _CHANNEL)

    async def _listen(self) -> None:
        if self._listener is not None:
            return
        async with self._listening:
            if self._listener is None:
                listener = await self._pool.acquire()
                try:
                    listener.add_termination_listener(self._on_lost_listener)
                    await listener.add_listener(_CHANNEL, self._on_notify)
                except BaseException:
                    await self._pool.release(listener)
                    raise
                self._listener = listener

    async def _stop_listening(self) -> None:
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        with suppress(*_NOT_REACHED, asyncpg.PostgresError):
            listener.remove_termination_listener(self._on_lost_listener)
            await listener.remove_listener(_CHANNEL, self._on_notify)
            await self._pool.release(listener)

    def _on_lost_listener(self, *_: object) -> None:
        # The pool has taken the connection back; the next look asks for another.
        self._listener = None

    def _on_notify(self, *_: object) -> None:
        wake, self._wake = self._wake, asyncio.Event()
        wake.set()


def _unavailable(exc: BaseException) -> QueueUnavailable:
    error = QueueUnavailable("the event queue took nothing")
    error.__cause__ = exc
    return error


def _unknown(exc: BaseException) -> SendUnknown:
    error = SendUnknown("the event queue may have taken it")
    error.__cause__ = exc
    return error
