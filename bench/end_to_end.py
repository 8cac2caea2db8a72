"""From HTTP to the ledger, beside a raw COPY of the same rows, and beside a service that inserts a row a request."""

from __future__ import annotations

from collections.abc import Sequence

from audit_ingest.routes import BULK_PATH
from bench.copying import check_ledger, copied_out, copy_rate
from bench.harness import Ratio, Result, Size, at_least, in_turn
from bench.load import LoadProcess, Posts, Where, post
from bench.servers import BenchServer
from bench.service import Service, service
from bench.serving import INSERT_PATH

BULK_ENTRIES = 200
WARM_ENTRIES = 1_000


async def end_to_end(server: BenchServer, size: Size, load: LoadProcess) -> Sequence[Result]:
    """Events a second, from the first request until all of them are committed in the ledger."""
    count = size.of(100_000, 20_000)
    inserts = size.of(10_000, 5_000)
    rows = b""

    async def whole() -> float:
        nonlocal rows
        async with service(server, ["ingest"], ["projector-ledger"]) as running:
            where = where_of(running)
            await load.run(post, where, Posts(BULK_PATH, WARM_ENTRIES, BULK_ENTRIES))
            await running.committed(WARM_ENTRIES)
            await running.owner.execute("CHECKPOINT")
            sent = await load.run(post, where, Posts(BULK_PATH, count, BULK_ENTRIES))
            took_s = await running.committed(WARM_ENTRIES + count) - sent.began_s
            await check_ledger(running.owner, count, after=WARM_ENTRIES, ids=sent.ids)
            if not rows:
                rows = await copied_out(running.owner, after=WARM_ENTRIES)
            return count / took_s

    async def copy() -> float:
        return await copy_rate(server, rows, count)

    async def insert() -> float:
        async with service(server, ["ingest"]) as running:
            await running.owner.execute("SELECT auditlog.attach_days(auditlog.now()::date, 1)")
            await load.run(post, where_of(running), Posts(INSERT_PATH, WARM_ENTRIES))
            await running.owner.execute("CHECKPOINT")
            sent = await load.run(post, where_of(running), Posts(INSERT_PATH, inserts))
            await check_ledger(running.owner, inserts, after=WARM_ENTRIES, ids=sent.ids, gaps=True)
            return inserts / sent.took_s

    await whole()  # makes the rows that COPY takes
    ours, copied, inserted = await in_turn("end to end : COPY : INSERT a request", size.rounds, whole, copy, insert)
    return [
        Ratio("end to end, HTTP to ledger ÷ raw COPY", "events/s", at_least(0.40), ours, copied),
        Ratio("end to end ÷ one INSERT a request", "events/s", at_least(10), ours, inserted),
    ]


def where_of(running: Service, process: int = 0) -> Where:
    """Where a client finds a process of the service."""
    serving = running.process(process)
    return Where(serving.host, serving.port, running.token)
