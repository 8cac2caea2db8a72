"""What query publishes of its routes: OpenAPI 3.1 operations and the components that they refer to."""

from __future__ import annotations

from typing import Any, Final

from audit_contracts.event import Outcome, Severity
from audit_contracts.query import (
    EXACT_FIELDS,
    FILTER_VALUE_CHARS_MAX,
    FILTER_VALUES_MAX,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    PREFIX_FIELDS,
    Direction,
)
from audit_kit.entry_openapi import ENTRY, ENTRY_EXAMPLE
from audit_kit.part import Json
from audit_query.parameters import NEXT_TOKEN_CHARS_MAX, WAIT_MS_MAX
from audit_query.reading import AGELESS_WAIT_MS, COUNT_MAX, YOUNG_WAIT_MS

_MOMENT: Final[Json] = {"type": "string", "format": "date-time"}
_UUID: Final[Json] = {"type": "string", "format": "uuid"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}

_PAGE: Final[Json] = {
    "type": "object",
    "title": "Page",
    "required": ["results", "count", "next_token", "watermark"],
    "properties": {
        "results": {"type": "array", "items": {"$ref": "#/components/schemas/Entry"}},
        "count": {**_COUNT, "description": "Entries on this page."},
        "next_token": {
            "type": ["string", "null"],
            "description": "Ask for the next page with it; null on the last. A page before may be short, or empty.",
        },
        "watermark": {
            "type": "object",
            "description": "How far the log has come: its next position, and when the entry before was recorded.",
            "required": ["position", "recorded_at"],
            "properties": {"position": _COUNT, "recorded_at": {"type": ["string", "null"], "format": "date-time"}},
        },
        "total": {**_COUNT, "description": "Matches in the list, with `total=true`."},
        "total_exact": {
            "type": "boolean",
            "description": f"False where counting was cut short, at {COUNT_MAX} or before.",
        },
    },
    "examples": [
        {
            "results": [ENTRY_EXAMPLE],
            "count": 1,
            "next_token": None,
            "watermark": {"position": 48212, "recorded_at": "2026-01-31T12:00:00.330817Z"},
        }
    ],
}

SCHEMAS: Final[Json] = {"Entry": ENTRY, "Page": _PAGE}

_ITEM: Final[dict[str, Json]] = {
    "severity": {"type": "string", "enum": [severity.value for severity in Severity]},
    "outcome": {"type": "string", "enum": [outcome.value for outcome in Outcome]},
    "ip_address": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
}
_TEXT: Final[Json] = {
    "type": "string",
    "minLength": 1,
    "maxLength": FILTER_VALUE_CHARS_MAX,
    "pattern": r"^[^\u0000-\u001f\u007f]*$",
}


def _query(name: str, schema: Json, description: str, **more: Any) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description, **more}


def _many(name: str, field: str, description: str) -> Json:
    schema = {"type": "array", "items": _ITEM.get(field, _TEXT), "maxItems": FILTER_VALUES_MAX}
    return _query(name, schema, description, style="form", explode=True)


LIST: Final[Json] = {
    "operationId": "list_logs",
    "summary": "List entries",
    "description": (
        "Entries in the order of their positions, newest first. Conditions on different fields hold together; a field's"
        " repeated parameter asks for any of its values. What masking hashed is found by the value as it was sent."
    ),
    "parameters": [
        _query("from", _MOMENT, "Not before this `timestamp`.", example="2026-01-31T00:00:00Z"),
        _query("to", _MOMENT, "Before this `timestamp`.", example="2026-02-01T00:00:00Z"),
        *(_many(field, field, f"`{field}` is one of these.") for field in EXACT_FIELDS),
        *(_many(f"{field}.not", field, f"`{field}` is none of these.") for field in EXACT_FIELDS),
        *(_many(f"{field}.prefix", field, f"`{field}` begins with one of these.") for field in PREFIX_FIELDS),
        _query("tenant_id", {"type": "string"}, "Must equal the tenant of the token."),
        _query(
            "include_access",
            {"type": "boolean", "default": False},
            "Also what the audit log recorded of itself: reads, changes, refused attempts.",
        ),
        _query(
            "sort",
            {"type": "string", "enum": [direction.value for direction in Direction], "default": "-position"},
            "`-position`: newest first; `position`: oldest first.",
        ),
        _query(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
            "Entries on a page, at most.",
        ),
        _query(
            "next_token",
            {"type": "string", "minLength": 1, "maxLength": NEXT_TOKEN_CHARS_MAX},
            "Where the page before ended. Good for the same question of the same reader alone; the list stays as it was"
            " when its first page was asked for, whatever arrives meanwhile.",
        ),
        _query("total", {"type": "boolean", "default": False}, "Count the matches as well."),
    ],
    "responses": {
        "200": {
            "description": "A page.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Page"}}},
        },
        "400": {"$ref": "#/components/responses/BadRequest"},
    },
}

POINT: Final[Json] = {
    "operationId": "get_log",
    "summary": "One entry",
    "parameters": [
        {
            "name": "id",
            "in": "path",
            "required": True,
            "schema": _UUID,
            "description": "The entry's id.",
            "example": ENTRY_EXAMPLE["id"],
        },
        _query(
            "wait_ms",
            {"type": "integer", "minimum": 0, "maximum": WAIT_MS_MAX},
            "How long to wait for an entry that is still on its way."
            f" If absent: {YOUNG_WAIT_MS} for an id that was made less than a minute ago,"
            f" {AGELESS_WAIT_MS} for one that does not tell its age (all but UUIDv7), else 0.",
        ),
    ],
    "responses": {
        "200": {
            "description": "The entry.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Entry"}}},
        },
    },
}
