"""Time as a port, so that tests own it."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall time and a time that only goes forward."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
