"""The machine's clock."""

from __future__ import annotations

import time


class SystemClock:
    """The `Clock` that every process uses; tests bring their own."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z."""
        return time.time_ns() // 1_000

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        return time.monotonic()
