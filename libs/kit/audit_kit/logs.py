"""Logs are events with keys, one a line: JSON for machines, columns for a terminal. No payloads, no secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from audit_kit.tracing import current_trace

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "console"]

_REDACTED: Final = "[redacted]"
_SECRET_KEYS: Final = frozenset(
    {"api_key", "authorization", "body", "cookie", "credential", "entry", "password", "payload", "secret", "token"}
)
# Credentials as they look wherever they end up: our API keys, JWTs, bearer headers, passwords within URLs.
_SECRET_VALUES: Final = re.compile(
    r"alk\.[a-z0-9_-]{1,63}\.[\w-]{22}\.[\w-]+"
    r"|eyJ[\w-]{5,}\.[\w-]*\.[\w-]*"
    r"|(?i:\bbearer\s+)[\w.~+/=-]+"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)


def configure_logs(*, level: LogLevel, format: LogFormat, stream: TextIO | None = None) -> None:
    """
    Send this process's logs, those of its libraries included, to `stream` (standard error unless told).

    Standard output stays free for what a command prints.
    """
    target = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace_id,
    ]
    rendering: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if format == "json":
        rendering += [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(default=str)]
    else:
        rendering += [
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer(colors=target.isatty()),
        ]
    handler = logging.StreamHandler(target)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=rendering, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Both name URLs, with what their queries hold, at the level of information.
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(root.level, logging.WARNING))
    # While a database is away each pool would tell a stack every second; who needs the connection says that it is away.
    logging.getLogger("asyncpg.pool").setLevel(max(root.level, logging.ERROR))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The last resort: hide values under keys that name a secret, and credentials inside any text."""
    return {key: _REDACTED if key.lower() in _SECRET_KEYS else _redacted(value) for key, value in event.items()}


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_VALUES.sub(_REDACTED, value)
    if isinstance(value, Mapping):
        return {k: _REDACTED if str(k).lower() in _SECRET_KEYS else _redacted(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        # Bytes in a log are a body or a key; neither belongs there.
        return f"[{len(value)} bytes]"
    return value


def _add_trace_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    trace = current_trace()
    if trace is not None:
        event["trace_id"] = trace.trace_id
    return event
