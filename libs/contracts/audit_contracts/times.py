"""Times as the house counts them: integer microseconds since 1970-01-01T00:00:00Z."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """`moment` (with a zone) in microseconds since 1970; exact, unlike `timestamp()`."""
    return (moment - EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """The moment `us` microseconds after 1970, in UTC."""
    return EPOCH + timedelta(microseconds=us)
