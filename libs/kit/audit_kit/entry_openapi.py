"""The entry as every part publishes it: the OpenAPI component `Entry`."""

from __future__ import annotations

from typing import Final

from audit_contracts.event import Outcome, Severity
from audit_kit.part import Json

_MOMENT: Final[Json] = {"type": "string", "format": "date-time"}
_UUID: Final[Json] = {"type": "string", "format": "uuid"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}

ENTRY_EXAMPLE: Final[Json] = {
    "id": "0197c1de-6f3a-7cc2-9d44-0f4be4d3a6a1",
    "tenant_id": "acme",
    "timestamp": "2026-01-31T12:00:00.250000Z",
    "received_at": "2026-01-31T12:00:00.310042Z",
    "user_id": "u-4711",
    "action": "UPDATE",
    "resource_type": "invoice",
    "resource_id": "inv-2026-0042",
    "severity": "INFO",
    "outcome": "success",
    "submitted_by": "https://id.example.com/|billing",
    "position": 48211,
    "recorded_at": "2026-01-31T12:00:00.330817Z",
    "ip_address": "203.0.113.7",
    "before": {"status": "draft"},
    "after": {"status": "sent"},
    "metadata": {"channel": "web", "api_key": "[REDACTED]"},
    "masked": [["/metadata/api_key", "key"]],
}

ENTRY: Final[Json] = {
    "type": "object",
    "title": "Entry",
    "description": "An entry as it is kept. What is absent is left out.",
    "required": [
        "id",
        "tenant_id",
        "timestamp",
        "received_at",
        "action",
        "resource_type",
        "severity",
        "outcome",
    ],
    "properties": {
        "id": _UUID,
        "tenant_id": {"type": "string"},
        "timestamp": {**_MOMENT, "description": "When it was done, by the producer's clock."},
        "received_at": {**_MOMENT, "description": "When ingest received it."},
        "recorded_at": {**_MOMENT, "description": "When the ledger recorded it; never goes back."},
        "position": {**_COUNT, "description": "Its place in the tenant's log, from 0 and without gaps."},
        "user_id": {"type": "string"},
        "subject_id": {"type": "string"},
        "session_id": {"type": "string"},
        "submitted_by": {"type": "string", "description": "The identity that sent it: `iss|sub` of its token."},
        "action": {"type": "string"},
        "resource_type": {"type": "string"},
        "resource_id": {"type": "string"},
        "severity": {"type": "string", "enum": [severity.value for severity in Severity]},
        "outcome": {"type": "string", "enum": [outcome.value for outcome in Outcome]},
        "ip_address": {"type": "string"},
        "user_agent": {"type": "string"},
        "before": {"description": "The state before: any JSON value, as kept."},
        "after": {"description": "The state after: any JSON value, as kept."},
        "metadata": {"type": "object"},
        "details": {"type": "string"},
        "request_id": {"type": "string"},
        "correlation_id": {"type": "string"},
        "trace_id": {"type": "string"},
        "source": {"type": "string"},
        "producer_id": {"type": "string"},
        "producer_seq": _COUNT,
        "flags": {
            "type": "array",
            "items": {"type": "string"},
            "description": "`late`, `clock_skew`, `conflict_of:<id>`.",
        },
        "masked": {
            "type": "array",
            "description": "What was masked: pairs of JSON pointer and rule.",
            "items": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
        },
        "erased": {
            "type": "array",
            "description": "Parts of the entry that were erased.",
            "items": {"type": "string", "enum": ["resource", "identity", "changes", "content"]},
        },
    },
    "examples": [ENTRY_EXAMPLE],
}
