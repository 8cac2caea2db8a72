"""
The published contract of an entry: the pydantic twin of `event.EntryIn`, and the one place that knows its aliases.

Hot paths read entries with msgspec. This model is what the OpenAPI document shows, and what names every fault of an
entry that msgspec refused. A property test holds the two to the same answers on every document that passes
`strict_json`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from audit_contracts.event import (
    ACCESS_SOURCE,
    ACTION_PATTERN,
    ALIASES,
    DETAILS_CHARS_MAX,
    NAME_PATTERN,
    OWNER_CHARS_MAX,
    PRODUCER_SEQ_MAX,
    REFERENCE_PATTERN,
    RESERVED_ACTION_PREFIX,
    RESOURCE_ID_CHARS_MAX,
    USER_AGENT_CHARS_MAX,
    Outcome,
    Severity,
)

_ALIAS_NAMES: Final = frozenset(ALIASES)

_UUID: Final = re.compile(
    r"[0-9A-Fa-f]{8}(-?)[0-9A-Fa-f]{4}\1[0-9A-Fa-f]{4}\1[0-9A-Fa-f]{4}\1[0-9A-Fa-f]{12}", re.ASCII
)
_DATETIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:([Zz])|([+-])([01][0-9]|2[0-3]):?([0-5][0-9]))?"
)
_UNRESERVED_ACTION: Final = f"(?!{re.escape(RESERVED_ACTION_PREFIX)})"


class AliasConflict(ValueError):
    """A document holds a field under both of its names; `alias` and `field` are these names."""

    def __init__(self, alias: str, field: str) -> None:
        super().__init__(f"this is another name of {field}, which is sent too; send one of them")
        self.alias = alias
        self.field = field


def resolve_aliases(document: dict[str, Any]) -> dict[str, Any]:
    """
    `document` with each field under its own name; the same object where no alias was used.

    Raises:
        AliasConflict: a field is there under both names.
    """
    if _ALIAS_NAMES.isdisjoint(document):
        return document
    resolved = dict(document)
    for alias, name in ALIASES.items():
        if alias in resolved:
            if name in resolved:
                raise AliasConflict(alias, name)
            resolved[name] = resolved.pop(alias)
    return resolved


def _ecma(pattern: str) -> str:
    # Python's `$` also matches before a last line feed, so the hot path says `\Z`; ECMA-262 and pydantic's own engine
    # know no `\Z`, and their `$` is the very end.
    return pattern.removesuffix(r"\Z") + "$"


def _uuid(value: object) -> UUID:
    if isinstance(value, UUID):
        return value
    if not isinstance(value, str) or _UUID.fullmatch(value) is None:
        raise PydanticCustomError("uuid", "a UUID is 32 hexadecimal digits, with or without all four hyphens")
    return UUID(value)


def _datetime(value: object) -> datetime:
    if isinstance(value, datetime):
        moment: datetime | None = value
    else:
        moment = _rfc3339(value) if isinstance(value, str) else None
    if moment is None:
        raise PydanticCustomError("datetime", "a timestamp is written as RFC 3339 says, like 2026-01-31T12:00:00.5Z")
    if moment.tzinfo is None:
        raise PydanticCustomError("naive_datetime", "a timestamp needs its zone: Z, or an offset like +01:00")
    return moment


def _rfc3339(text: str) -> datetime | None:
    match = _DATETIME.fullmatch(text)
    if match is None:
        return None
    *whole, fraction, zulu, sign, hours, minutes = match.groups()
    zone = None
    if zulu:
        zone = UTC
    elif sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        zone = timezone(-offset if sign == "-" else offset)
    year, month, day, hour, minute, second = map(int, whole)
    # The seventh digit rounds; what comes behind it can't change that.
    microseconds = (int((fraction or "0").ljust(7, "0")[:7]) + 5) // 10
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=zone) + timedelta(microseconds=microseconds)
    except (ValueError, OverflowError):
        return None


_Uuid = Annotated[
    UUID,
    BeforeValidator(_uuid),
    WithJsonSchema(
        {
            "type": "string",
            "format": "uuid",
            "pattern": "^([0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})$",
        }
    ),
]
_Datetime = Annotated[datetime, BeforeValidator(_datetime), WithJsonSchema({"type": "string", "format": "date-time"})]
_Owner = Annotated[str, Field(min_length=1, max_length=OWNER_CHARS_MAX)]
_Name = Annotated[str, Field(pattern=_ecma(NAME_PATTERN))]
_Reference = Annotated[str, Field(pattern=_ecma(REFERENCE_PATTERN))]


def _publish_aliases(schema: dict[str, Any]) -> None:
    """Show each alias as a property of its own, and that a required field may come under either name."""
    properties, required = schema["properties"], schema["required"]
    for alias, name in ALIASES.items():
        properties[alias] = {**properties[name], "description": f"Another name of `{name}`; send one of the two."}
    either = [[name, *(alias for alias, of in ALIASES.items() if of == name)] for name in required]
    schema["required"] = [names[0] for names in either if len(names) == 1]
    schema["allOf"] = [
        *({"oneOf": [{"required": [name]} for name in names]} for names in either if len(names) > 1),
        *({"not": {"required": [alias, name]}} for alias, name in ALIASES.items() if name not in required),
    ]


class EntryModel(BaseModel):
    """
    One entry of the audit log, as a producer sends it. A field that is `null` is the same as absent; unknown fields are
    refused. The tenant and `submitted_by` always come from the token.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        title="EntryIn",
        json_schema_extra=_publish_aliases,
    )

    user_id: _Owner = Field(description="Who did it, as the producer knows them.", examples=["u-4711"])
    action: str = Field(
        pattern=_ecma(ACTION_PATTERN),
        description="What was done, kept as sent. Names that begin with `auditlog.` are reserved.",
        examples=["UPDATE", "user.login", "GetObject"],
        json_schema_extra={
            "pattern": _ecma(ACTION_PATTERN).replace("^", f"^(?!{re.escape(RESERVED_ACTION_PREFIX)})", 1)
        },
    )
    resource_type: _Name = Field(description="The kind of thing it was done to.", examples=["invoice"])
    resource_id: str = Field(
        min_length=1,
        max_length=RESOURCE_ID_CHARS_MAX,
        description="Which thing it was done to.",
        examples=["inv-2026-0042"],
    )
    id: _Uuid | None = Field(
        None,
        description="The producer's own id. The same id with the same content is a repeat and adds nothing.",
        examples=["0197c1de-6f3a-7cc2-9d44-0f4be4d3a6a1"],
    )
    tenant_id: str | None = Field(None, description="Must equal the tenant of the token.", examples=["acme"])
    subject_id: _Owner | None = Field(
        None, description="Whose data this is about, where that is not the user.", examples=["customer-99"]
    )
    session_id: _Owner | None = Field(None, description="The session it was done in.", examples=["s-83f1"])
    timestamp: _Datetime | None = Field(
        None,
        description="When it was done (RFC 3339, with a zone, 1970 or later, at most 24 hours ahead)."
        " When it was received, if absent.",
        examples=["2026-01-31T12:00:00.250Z"],
    )
    ip_address: Annotated[str, Field(max_length=64)] | None = Field(
        None,
        description="An IPv4 or IPv6 address without a zone id; kept in its normal form.",
        examples=["203.0.113.7"],
    )
    user_agent: Annotated[str, Field(max_length=USER_AGENT_CHARS_MAX)] | None = Field(
        None, description="The client's User-Agent.", examples=["curl/8.14.1"]
    )
    before: Any = Field(None, description="The state before: any JSON value.", examples=[{"status": "draft"}])
    after: Any = Field(None, description="The state after: any JSON value.", examples=[{"status": "sent"}])
    metadata: dict[str, Any] | None = Field(
        None, description="Whatever else belongs to it.", examples=[{"channel": "web"}]
    )
    severity: Annotated[Severity, Strict(False)] | None = Field(None, description="INFO, if absent.", examples=["INFO"])
    details: Annotated[str, Field(max_length=DETAILS_CHARS_MAX)] | None = Field(
        None, description="A text for people.", examples=["Invoice sent to the customer"]
    )
    outcome: Annotated[Outcome, Strict(False)] | None = Field(
        None, description="unknown, if absent.", examples=["success"]
    )
    request_id: _Reference | None = Field(None, description="The request that did it.", examples=["req-7f3a"])
    correlation_id: _Reference | None = Field(None, description="What it was part of.", examples=["order-1234"])
    trace_id: _Reference | None = Field(
        None,
        description="The trace it belongs to; that of the `traceparent` header, if absent.",
        examples=["4bf92f3577b34da6a3ce929d0e0e4736"],
    )
    source: _Name | None = Field(
        None,
        description="The application that did it. `auditlog` is reserved.",
        examples=["billing"],
        json_schema_extra={"not": {"const": ACCESS_SOURCE}},
    )
    producer_id: _Reference | None = Field(None, description="The producer's instance.", examples=["billing-7d9f"])
    producer_seq: Annotated[int, Field(ge=0, le=PRODUCER_SEQ_MAX)] | None = Field(
        None, description="The instance's own count of what it sent; gaps in it are lost entries.", examples=[17]
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        try:
            return resolve_aliases(document)
        except AliasConflict as exc:
            raise PydanticCustomError("alias_conflict", "{reason}", {"reason": str(exc)}) from exc
