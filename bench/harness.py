"""
How a ratio is measured: two ways of doing the same work, in turn, in one run; the median of their quotients counts.

Absolute figures of a shared machine drift by half from hour to hour; the quotient of two neighbours does not.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Size:
    """How much work a run does."""

    quick: bool

    @property
    def pairs(self) -> int:
        """Pairs of measurements for each ratio."""
        return 3 if self.quick else 9

    def of(self, full: int, quick: int) -> int:
        """A count, by the size of the run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Ratio:
    """A measured ratio beside its target. `ours` and `theirs` are in `unit`, one of each a pair."""

    name: str
    unit: str
    target: str
    met: Callable[[float], bool]
    ours: Sequence[float]
    theirs: Sequence[float]
    notes: Sequence[str] = field(default=())

    @property
    def value(self) -> float:
        """The median of the pairs' quotients."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest quotient."""
        quotients = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
        return min(quotients), max(quotients)

    def row(self) -> str:
        """A row of the table in docs/benchmarks.md."""
        low, high = self.spread
        verdict = "met" if self.met(self.value) else "**missed**"
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        return (
            f"| {self.name} | {self.value:.2f} | {low:.2f} to {high:.2f} | {self.target} | {verdict} "
            f"| {ours:,.4g} | {theirs:,.4g} | {self.unit} |"
        )


HEADING = (
    "| ratio | median | spread | target | | ours | theirs | unit |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


def at_least(bound: float) -> tuple[str, Callable[[float], bool]]:
    """A target that more is better for."""
    return f"≥ {bound:g}", lambda value: value >= bound


def at_most(bound: float) -> tuple[str, Callable[[float], bool]]:
    """A target that less is better for."""
    return f"≤ {bound:g}", lambda value: value <= bound


async def in_turn(
    name: str, pairs: int, ours: Callable[[], Awaitable[float]], theirs: Callable[[], Awaitable[float]]
) -> tuple[list[float], list[float]]:
    """Measure both, `pairs` times, changing who goes first."""
    mine: list[float] = []
    other: list[float] = []
    for i in range(pairs):
        for first in (True, False) if i % 2 else (False, True):
            (mine if first else other).append(await (ours if first else theirs)())
        progress(f"{name}: pair {i + 1} of {pairs}, {mine[-1] / other[-1]:.2f}")
    return mine, other


def progress(line: str) -> None:
    """Say on stderr where the run is."""
    print(line, file=sys.stderr, flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of `values` are at most."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
