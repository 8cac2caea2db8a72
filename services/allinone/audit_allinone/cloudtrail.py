"""
A CloudTrail record as an entry, losing nothing.

The metadata is the record without the keys that a field of the entry says in the same letters, so that the record can
be rebuilt; `userIdentity`, `resources` and `requestParameters` stay whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final
from uuid import UUID

from audit_contracts.event import (
    ACTION_PATTERN,
    NAME_PATTERN,
    OWNER_CHARS_MAX,
    REFERENCE_PATTERN,
    RESOURCE_ID_CHARS_MAX,
    USER_AGENT_CHARS_MAX,
)

SOURCE: Final = "aws.cloudtrail"
SERVICE_SUFFIX: Final = ".amazonaws.com"
RESOURCE_ID_UNKNOWN: Final = "-"

_RESOURCE_PARAMETERS: Final = (
    "resourceArn",
    "bucketName",
    "functionName",
    "roleName",
    "userName",
    "groupName",
    "keyId",
    "secretId",
    "name",
    "instanceId",
    "tableName",
    "queueUrl",
    "topicArn",
)
_WHO: Final = ("arn", "principalId", "invokedBy", "type")
_ACTION: Final = re.compile(ACTION_PATTERN)
_NAME: Final = re.compile(NAME_PATTERN)
_REFERENCE: Final = re.compile(REFERENCE_PATTERN)
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
# Where a service acts on its own, its name stands in place of address and user agent.
_INTERNAL: Final = re.compile(r"AWS Internal|[a-z0-9.-]+\.amazonaws\.com")


class NotCloudTrail(ValueError):
    """The record lacks what every CloudTrail record has; the message says what."""


def entry_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """
    The entry to post for one record, as JSON values.

    Raises:
        NotCloudTrail: `eventID`, `eventTime`, `eventSource`, `eventName` or who acted is missing, or not as CloudTrail
            writes it.
    """
    identity = record.get("userIdentity")
    entry: dict[str, Any] = {
        "id": _event_id(record),
        "timestamp": _matching(record, "eventTime", _TIME),
        "action": _matching(record, "eventName", _ACTION),
        "resource_type": _matching(record, "eventSource", _NAME).removesuffix(SERVICE_SUFFIX),
        "resource_id": _resource_id(record),
        "user_id": _first(_under(identity, _WHO), OWNER_CHARS_MAX),
        "source": SOURCE,
    }
    if entry["user_id"] is None:
        raise NotCloudTrail("userIdentity names nobody")
    said = {"eventTime", "eventName"}
    if record["eventID"] == entry["id"]:
        said.add("eventID")
    if record["eventSource"] != entry["resource_type"]:
        said.add("eventSource")
    for key, field, fits in (
        ("sourceIPAddress", "ip_address", _is_address),
        ("userAgent", "user_agent", _is_user_agent),
        ("requestID", "request_id", _is_reference),
    ):
        value = record.get(key)
        if isinstance(value, str) and fits(value):
            entry[field] = value
            said.add(key)
    if record.get("errorCode"):
        entry |= {"outcome": "failure", "severity": "WARNING"}
    entry["metadata"] = {key: value for key, value in record.items() if key not in said}
    return entry


def _event_id(record: Mapping[str, Any]) -> str:
    try:
        return str(UUID(record["eventID"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise NotCloudTrail("eventID is missing or is not a UUID") from None


def _matching(record: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = record.get(key)
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise NotCloudTrail(f"{key} is missing or not as CloudTrail writes it")
    return value


def _resource_id(record: Mapping[str, Any]) -> str:
    resources = record.get("resources")
    arns = [found for item in resources for found in _under(item, ("ARN",))] if isinstance(resources, list) else []
    named = _under(record.get("requestParameters"), _RESOURCE_PARAMETERS)
    return _first([*arns, *named], RESOURCE_ID_CHARS_MAX) or RESOURCE_ID_UNKNOWN


def _under(item: object, keys: Iterable[str]) -> list[object]:
    return [item.get(key) for key in keys] if isinstance(item, Mapping) else []


def _first(candidates: Iterable[object], chars_max: int) -> str | None:
    return next((text for text in candidates if isinstance(text, str) and 0 < len(text) <= chars_max), None)


def _is_address(value: str) -> bool:
    """Whether it is an IP address in the form that ingest gives it, so that it comes back in the same letters."""
    try:
        return str(ip_address(value)) == value
    except ValueError:
        return False


def _is_user_agent(value: str) -> bool:
    return 0 < len(value) <= USER_AGENT_CHARS_MAX and _INTERNAL.fullmatch(value) is None


def _is_reference(value: str) -> bool:
    return _REFERENCE.fullmatch(value) is not None
