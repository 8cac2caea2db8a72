"""How long after its slot an entry can be read, at half of what the service can do."""

from __future__ import annotations

from collections.abc import Sequence

from audit_ingest.routes import SINGLE_PATH
from bench.copying import check_ledger
from bench.end_to_end import WARM_ENTRIES, where_of
from bench.harness import NO_TARGET, Figure, Result, Size, at_most, percentile, progress
from bench.load import LoadProcess, Posts, post, visible_after
from bench.servers import BenchServer
from bench.service import TENANT, service


async def accepted_to_visible(server: BenchServer, size: Size, load: LoadProcess) -> Sequence[Result]:
    """Milliseconds from the slot of a single post until query's login sees the entry in the ledger."""
    seconds = size.of(10, 3)
    p50s: list[float] = []
    p99s: list[float] = []
    async with service(server, ["ingest"], ["projector-ledger"]) as running:
        where = where_of(running)
        await load.run(post, where, Posts(SINGLE_PATH, WARM_ENTRIES))
        most = size.of(20_000, 5_000)
        sent = await load.run(post, where, Posts(SINGLE_PATH, most))
        in_ledger = WARM_ENTRIES + most
        capacity = most / (await running.committed(in_ledger) - sent.began_s)
        half = capacity / 2
        count = int(half * seconds)
        url = running.database.url_for("query")
        for number in range(size.rounds):
            await running.owner.execute("CHECKPOINT")
            waited_s = await load.run(visible_after, where, url, TENANT, Posts(SINGLE_PATH, count), half)
            assert len(waited_s) == count
            await check_ledger(running.owner, count, after=in_ledger)
            in_ledger += count
            p50s.append(percentile(waited_s, 0.5) * 1_000)
            p99s.append(percentile(waited_s, 0.99) * 1_000)
            progress(
                f"accepted → visible: round {number + 1} of {size.rounds}: "
                f"p50 {p50s[-1]:.1f} ms, p99 {p99s[-1]:.1f} ms at {half:,.0f}/s"
            )
    return [
        Figure("single posts, HTTP to ledger, closed loop", "events/s", NO_TARGET, [capacity]),
        Figure(f"accepted → visible at half load ({half:,.0f}/s), p50", "ms", NO_TARGET, p50s),
        Figure(f"accepted → visible at half load ({half:,.0f}/s), p99", "ms", at_most(250, " ms"), p99s),
    ]
