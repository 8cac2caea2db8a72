"""
How a ratio is measured: ways of doing the same work, in turn, in one run; the median of their quotients counts.

Absolute figures of a shared machine drift by half from hour to hour; the quotient of two neighbours does not.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

Way = Callable[[], Awaitable[float]]
"""One way of doing the work, done once: the answer is the figure that counts."""


@dataclass(frozen=True)
class Size:
    """How much work a run does."""

    quick: bool

    @property
    def rounds(self) -> int:
        """Pairs of measurements for each ratio."""
        return 3 if self.quick else 9

    def of(self, full: int, quick: int) -> int:
        """A count, by the size of the run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Target:
    """What a figure has to be."""

    text: str
    met: Callable[[float], bool]

    def verdict(self, value: float) -> str:
        """As the table says it."""
        return "met" if self.met(value) else "**missed**"


def at_least(bound: float) -> Target:
    """More is better."""
    return Target(f"≥ {bound:g}", lambda value: value >= bound)


def at_most(bound: float, unit: str = "") -> Target:
    """Less is better."""
    return Target(f"≤ {bound:g}{unit}", lambda value: value <= bound)


NO_TARGET = Target("–", lambda _: True)


@dataclass(frozen=True)
class Ratio:
    """A measured ratio beside its target. `ours` and `theirs` are in `unit`, one of each a round."""

    name: str
    unit: str
    target: Target
    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def value(self) -> float:
        """The median of the rounds' quotients."""
        return statistics.median(self._quotients())

    @property
    def is_met(self) -> bool:
        """Whether it is what it has to be."""
        return self.target.met(self.value)

    def row(self) -> str:
        """A row of the table in docs/benchmarks.md."""
        quotients = self._quotients()
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        return (
            f"| {self.name} | {self.value:.2f} | {min(quotients):.2f} to {max(quotients):.2f} | {self.target.text} "
            f"| {self.target.verdict(self.value)} | {figure(ours)} | {figure(theirs)} | {self.unit} |"
        )

    def _quotients(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]


@dataclass(frozen=True)
class Figure:
    """A figure that has no other to be compared with, one a round."""

    name: str
    unit: str
    target: Target
    values: Sequence[float] = field(repr=False)

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool:
        """Whether it is what it has to be."""
        return self.target.met(self.value)

    def row(self) -> str:
        """A row of the table in docs/benchmarks.md."""
        verdict = "" if self.target is NO_TARGET else self.target.verdict(self.value)
        return (
            f"| {self.name} | – | {figure(min(self.values))} to {figure(max(self.values))} {self.unit} "
            f"| {self.target.text} | {verdict} | {figure(self.value)} | – | {self.unit} |"
        )


Result = Ratio | Figure

HEADING = (
    "| what | ratio, median | spread | target | | ours | theirs | unit |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


async def in_turn(name: str, rounds: int, *ways: Way) -> list[list[float]]:
    """Measure each way `rounds` times, another one first each time; the figures of each, in the order given."""
    figures: list[list[float]] = [[] for _ in ways]
    for number in range(rounds):
        for turn in range(len(ways)):
            at = (number + turn) % len(ways)
            figures[at].append(await ways[at]())
        progress(f"{name}: round {number + 1} of {rounds}: " + " : ".join(figure(of[-1]) for of in figures))
    return figures


def figure(value: float) -> str:
    """Three digits that matter, large numbers whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def progress(line: str) -> None:
    """Say on stderr where the run is."""
    print(line, file=sys.stderr, flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of `values` are at most."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
