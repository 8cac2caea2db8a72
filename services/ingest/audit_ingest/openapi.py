"""What the OpenAPI document says of ingest's routes."""

from __future__ import annotations

from typing import Any, Final

from audit_contracts.entry_schema import EntryModel
from audit_ingest.routes import ERRORS_MAX, IDEMPOTENCY_KEY_CHARS_MAX, JSON, NDJSON, ON_ERROR, SKIP, Bounds
from audit_kit.entry_openapi import ENTRY
from audit_kit.part import Json

_REF: Final = "#/components/schemas/"

_ENTRY: Final[Json] = {
    "user_id": "u-4711",
    "action": "UPDATE",
    "resource_type": "invoice",
    "resource_id": "inv-2026-0042",
    "timestamp": "2026-01-31T12:00:00.250Z",
    "ip_address": "203.0.113.7",
    "before": {"status": "draft"},
    "after": {"status": "sent"},
    "metadata": {"channel": "web", "password": "correct horse"},
    "outcome": "success",
}
_KEPT: Final[Json] = {
    **_ENTRY,
    "id": "019c13f2-7d1b-7a44-9f2e-5d0c3a1b8e77",
    "tenant_id": "acme",
    "received_at": "2026-01-31T12:00:00.312Z",
    "severity": "INFO",
    "submitted_by": "https://id.example.com/|billing",
    "metadata": {"channel": "web", "password": "[REDACTED]"},
    "masked": [["/metadata/password", "key"]],
    "receipt": "AfPCK0…",
}

_IDEMPOTENCY_KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes repeating safe: the same key with the same body adds nothing. Another body under a key of the"
    " last 24 hours is refused.",
    "schema": {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARS_MAX, "pattern": "^[ -~]+$"},
    "example": "order-1234-paid",
}
_TRACEPARENT: Final[Json] = {
    "name": "traceparent",
    "in": "header",
    "description": "W3C Trace Context; its trace id is given to entries that have none.",
    "schema": {"type": "string"},
    "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}
_ON_ERROR: Final[Json] = {
    "name": ON_ERROR,
    "in": "query",
    "description": f"`{SKIP}` takes the valid entries and lists the others. Left out: one invalid entry, and nothing is"
    " taken.",
    "schema": {"type": "string", "enum": [SKIP]},
}
_RATE_HEADERS: Final[Json] = {
    "RateLimit": {"description": "What is left, in events.", "schema": {"type": "string"}},
    "RateLimit-Policy": {"description": "The limits, in events.", "schema": {"type": "string"}},
}


def schemas() -> dict[str, Json]:
    """The components that the operations refer to."""
    entry_in = EntryModel.model_json_schema(ref_template=_REF + "{model}")
    parts: dict[str, Json] = {**entry_in.pop("$defs"), "EntryIn": entry_in}
    parts["Entry"] = ENTRY
    parts["AcceptedEntry"] = {
        "description": "The entry as kept, masked, with a receipt. Position and recorded_at come with the ledger.",
        "allOf": [
            {"$ref": _REF + "Entry"},
            {"type": "object", "required": ["receipt"], "properties": {"receipt": _receipt()}},
        ],
        "examples": [_KEPT],
    }
    parts["AcceptedBulk"] = {
        "type": "object",
        "required": ["accepted", "ids", "receipt"],
        "properties": {
            "accepted": {"type": "integer", "minimum": 1, "description": "Entries taken."},
            "ids": {
                "type": "array",
                "items": {"type": "string", "format": "uuid"},
                "description": "Their ids, in the order sent.",
            },
            "receipt": _receipt(),
            "refused": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
                "description": f"With `{ON_ERROR}={SKIP}`: the indexes of all entries that were left out.",
            },
            "errors": {
                "type": "array",
                "maxItems": ERRORS_MAX,
                "description": "Why they were left out.",
                "items": {
                    "type": "object",
                    "required": ["pointer", "detail", "code"],
                    "properties": {
                        "pointer": {"type": "string", "examples": ["/3/action"]},
                        "detail": {"type": "string"},
                        "code": {"type": "string"},
                    },
                },
            },
            "errors_total": {"type": "integer", "description": "How many reasons there are, told or not."},
        },
        "examples": [{"accepted": 1, "ids": ["019c13f2-7d1b-7a44-9f2e-5d0c3a1b8e77"], "receipt": "AfPCK0…"}],
    }
    return parts


def post_log(bounds: Bounds) -> Json:
    """The operation of POST /api/v1/logs."""
    return {
        "operationId": "post_log",
        "summary": "Record one entry",
        "description": "Answered once the entry is durable. Secrets in it are masked before it is kept; the answer"
        f" shows the entry as kept. At most {bounds.entry_bytes_max} bytes, nested {bounds.depth_max} deep; gzip and"
        " zstd are understood. Without an id or an Idempotency-Key a repeat is a new entry.",
        "parameters": [_IDEMPOTENCY_KEY, _TRACEPARENT],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": {"$ref": _REF + "EntryIn"}, "example": _ENTRY}},
        },
        "responses": {
            "201": {
                "description": "The entry is durable.",
                "headers": {
                    "Location": {
                        "description": "Where it can be read, moments later.",
                        "schema": {"type": "string", "format": "uri-reference"},
                    },
                    **_RATE_HEADERS,
                },
                "content": {JSON: {"schema": {"$ref": _REF + "AcceptedEntry"}, "example": _KEPT}},
            }
        },
    }


def post_bulk(bounds: Bounds) -> Json:
    """The operation of POST /api/v1/logs/bulk."""
    lines: dict[str, Any] = {
        "schema": {"type": "string", "description": "One entry a line."},
        "example": '{"user_id":"u-4711","action":"LOGIN","resource_type":"session","resource_id":"s-1"}\n',
    }
    return {
        "operationId": "post_bulk",
        "summary": "Record many entries",
        "description": "A JSON array, or NDJSON. Answered once all of them are durable. If one is invalid nothing is"
        f" taken and the problem lists the faults by index. At most {bounds.bulk_entries_max} entries and"
        f" {bounds.bulk_bytes_max} bytes after decompression (gzip and zstd are understood). After a 503 some may have"
        " been taken: repeat the request with its Idempotency-Key.",
        "parameters": [_ON_ERROR, _IDEMPOTENCY_KEY, _TRACEPARENT],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": bounds.bulk_entries_max,
                        "items": {"$ref": _REF + "EntryIn"},
                    },
                    "example": [_ENTRY],
                },
                **dict.fromkeys(NDJSON, lines),
            },
        },
        "responses": {
            "201": {
                "description": "What was taken is durable.",
                "headers": _RATE_HEADERS,
                "content": {JSON: {"schema": {"$ref": _REF + "AcceptedBulk"}}},
            }
        },
    }


def _receipt() -> Json:
    return {"type": "string", "description": "Signed proof of what was taken; opaque.", "examples": ["AfPCK0…"]}
