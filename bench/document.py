"""docs/benchmarks.md: what a full run found, above what a person has written about it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from bench.harness import HEADING, Result
from bench.servers import BenchServer

PATH: Final = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
_BY_HAND: Final = "<!-- A full run writes all above this line and leaves what is below. -->"

_INTRODUCTION: Final = """\
# Benchmarks

Ratios, not records: each compares the product with the least that could do the same work, both measured in turn in one
run, so that a slow hour slows both. A ratio is the median of its rounds' quotients, its spread the smallest and the
largest; the absolute figures beside it are medians of the same rounds and belong to this machine alone.

    make bench              all of it, half an hour; writes this table
    make bench QUICK=1      fewer and smaller rounds, under 5 minutes; prints them
    make bench ARGS=reads   some of it; prints them
"""

_CONDITIONS: Final = """\
Services run as `auditlog serve` runs them, each part in a process of its own, on the embedded PostgreSQL with the
product's own settings (fsync and synchronous_commit on, page checksums). The load comes from one more process over the
loopback interface: 64 keep-alive connections, authenticated with a JWT, default masking on, entries of 600 bytes of
which one in fifty holds a secret. **All of them share the cores above**: what the load generator and PostgreSQL use,
the service doesn't have. Every timed run is followed by a check that exactly the entries sent are there, once each:
count, ids as answered, checksum over the columns; reads are checked to find by both ways the same.

* *end to end*: bulks of 200 NDJSON entries, from the first byte sent until the last entry is committed in the ledger.
* *raw COPY*: the same rows into the same table with the same indexes, encoded before, one connection, one statement.
* *one INSERT a request*: the same server and authentication, 64 clients; each request decodes its entry and inserts one
  row over a pool of 16 connections, with no masking, no sealing, no hashes and no queue.
* *decode, mask, seal, encode*: what ingest does with the bytes of the same bulks, as one loop in one process, without
  HTTP and without a queue.
* *no-op*: a route of the same server that authenticates, reads the same body and answers 201.
* *accepted → visible*: single posts in an open loop at half of the closed-loop rate, each timed from its slot until the
  login of query sees the entry.
* *reads*: one after the other over one connection, against the same prepared statements in a transaction bound to the
  tenant, and the rows opened. Each day has as many entries, of 200 users; filters ask for one user after the other,
  points for one entry after the other, so that most are first recorded, durably, as an access of their own.
"""


@dataclass(frozen=True)
class Machine:
    """What the figures were taken on."""

    cores: int
    memory_gib: float
    python: str
    postgres: str
    system: str
    load: float
    """Processes that wanted to run in the minute before, ours not among them."""

    def line(self) -> str:
        """As the document says it."""
        return (
            f"{self.cores} cores, {self.memory_gib:.0f} GiB of memory, {self.system}, CPython {self.python}, "
            f"PostgreSQL {self.postgres}; load average before: {self.load:.1f}"
        )


async def machine(server: BenchServer) -> Machine:
    """This machine."""
    owner: asyncpg.Connection[Any] = await asyncpg.connect(server.server.owner_url)
    try:
        version = await owner.fetchval("SHOW server_version")
    finally:
        await owner.close()
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=psutil.virtual_memory().total / 2**30,
        python=platform.python_version(),
        postgres=version,
        system=f"{platform.system()} {platform.machine()}",
        load=os.getloadavg()[0],
    )


def write(results: Sequence[Result], on: Machine) -> None:
    """Write the document anew, but for what was written by hand."""
    kept = PATH.read_text("utf-8").partition(_BY_HAND)[2] if PATH.exists() else "\n"
    missed = sum(not result.is_met for result in results)
    now = datetime.now(UTC)
    lines = [
        _INTRODUCTION,
        f"Measured {now:%Y-%m-%d %H:%M} UTC by `make bench` on",
        f"{on.line()}.",
        "",
        *HEADING,
        *(result.row() for result in results),
        "",
        "All targets are met." if not missed else f"{missed} targets are missed; where the time goes is told below.",
        "",
        "## How it is measured",
        "",
        _CONDITIONS,
        _BY_HAND,
    ]
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text("\n".join(lines) + kept, "utf-8")
