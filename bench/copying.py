"""The rival of everything that writes: a raw COPY of the same rows into the same table and indexes."""

from __future__ import annotations

import io
import time
from typing import Any

import asyncpg

from bench.servers import BenchServer
from bench.workload import CLEAR_COLUMNS, checksum, checksum_of


async def copied_out(owner: asyncpg.Connection[Any], *, after: int = 0) -> bytes:
    """The ledger's rows from the position `after` on, encoded as COPY takes them."""
    sink = io.BytesIO()
    await owner.copy_from_query(
        "SELECT * FROM auditlog.entries WHERE position >= $1 ORDER BY position", after, output=sink, format="binary"
    )
    return sink.getvalue()


async def copy_rate(server: BenchServer, rows: bytes, count: int) -> float:
    """Rows a second of a COPY of `rows`, by one connection, durable at its end."""
    async with server.database() as database:
        owner: asyncpg.Connection[Any] = await asyncpg.connect(database.owner_url)
        try:
            await owner.execute("SELECT auditlog.attach_days(auditlog.now()::date - 1, 2); CHECKPOINT")
            started = time.perf_counter()
            await owner.copy_to_table("entries", schema_name="auditlog", source=io.BytesIO(rows), format="binary")
            took_s = time.perf_counter() - started
            await check_ledger(owner, count, gaps=True)
            return count / took_s
        finally:
            await owner.close()


class Wrong(Exception):
    """A run did not write what it was given."""


async def check_ledger(
    owner: asyncpg.Connection[Any],
    count: int,
    *,
    after: int = 0,
    ids: int | None = None,
    gaps: bool = False,
) -> None:
    """
    That the ledger holds the first `count` entries of the workload, once each.

    Args:
        after: of positions from here on.
        ids: the sum of their ids, modulo 2**128, as the answers told them.
        gaps: there may be some between positions.
    """
    rows = await owner.fetch(
        f"SELECT id, {CLEAR_COLUMNS}, position FROM auditlog.entries WHERE position >= $1 ORDER BY position", after
    )
    if len(rows) != count or len({row[0] for row in rows}) != count:
        raise Wrong(f"{len(rows)} rows of {count}")
    if checksum_of(row[1:-1] for row in rows) != checksum(count):
        raise Wrong("the rows are not what was sent")
    if ids is not None and sum(row[0].int for row in rows) % 2**128 != ids:
        raise Wrong("the ids are not those of the answers")
    if not gaps and [row[-1] for row in rows] != list(range(after, after + count)):
        raise Wrong("positions have gaps")
