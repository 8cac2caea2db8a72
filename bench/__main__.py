"""
Measure what the product costs.

    python -m bench [--quick] [NAME…]      the ratios of these names, else all of them

A full run of all writes docs/benchmarks.md; any other prints what it found.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import uvloop

from audit_kit.logs import configure_logs
from bench import document
from bench.end_to_end import end_to_end
from bench.harness import HEADING, Result, Size, progress
from bench.ingest import bulk_against_bare_work, single_against_noop
from bench.load import LoadProcess, load_process
from bench.projector import projector_against_copy
from bench.reads import reads
from bench.servers import BenchServer, bench_server
from bench.visible import accepted_to_visible

Measure = Callable[[BenchServer, Size, LoadProcess], Awaitable[Sequence[Result]]]

MEASURES: Final[Mapping[str, Measure]] = {
    "end-to-end": end_to_end,
    "projector": projector_against_copy,
    "bulk": bulk_against_bare_work,
    "single": single_against_noop,
    "visible": accepted_to_visible,
    "reads": reads,
}


async def measured(names: Sequence[str], size: Size, load: LoadProcess) -> tuple[list[Result], document.Machine]:
    """What these measures found, and on what."""
    results: list[Result] = []
    async with bench_server() as server:
        machine = await document.machine(server)
        for name in names:
            started = time.monotonic()
            results += await MEASURES[name](server, size, load)
            progress(f"{name}: {time.monotonic() - started:.0f} s")
    return results, machine


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what the product costs.")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds, in less than 5 minutes")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(MEASURES)}")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(MEASURES):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    configure_logs(level="warning", format="console")
    with load_process() as load:
        results, machine = uvloop.run(measured(chosen.names or list(MEASURES), Size(chosen.quick), load))
    if chosen.quick or chosen.names:
        sys.stdout.write("\n".join((*HEADING, *(result.row() for result in results), "")))
    else:
        document.write(results, machine)
        progress(f"wrote {document.PATH}")


if __name__ == "__main__":
    main()
