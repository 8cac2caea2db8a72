"""W3C Trace Context: a request's trace id is taken over or made, and named in the answer and the logs."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from typing import Final

import msgspec

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?")


class Trace(msgspec.Struct, frozen=True):
    """One request within a trace: the trace's id, the request's own span, the caller's flags; in lower-case hex."""

    trace_id: str
    span_id: str
    flags: str

    @property
    def header(self) -> str:
        """The trace as a value of `traceparent` (towards others) and of `traceresponse` (in an answer)."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


_CURRENT: Final[ContextVar[Trace | None]] = ContextVar("auditlog_trace", default=None)


def begin_trace(traceparent: bytes | None) -> Trace:
    """
    A new span for the request at hand, remembered for all that runs in its context.

    A `traceparent` that doesn't follow the standard is left aside and a new trace begins, as the standard demands.
    """
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    # Version 00 has exactly four fields; only a later version may carry more.
    if match is None or (match[3] is not None and traceparent is not None and traceparent.startswith(b"00")):
        random = secrets.token_hex(24)
        trace = Trace(random[:32], random[32:], "00")
    else:
        trace = Trace(match[1].decode(), secrets.token_hex(8), match[2].decode())
    _CURRENT.set(trace)
    return trace


def current_trace() -> Trace | None:
    """The trace of the request at hand; None outside of one."""
    return _CURRENT.get()
