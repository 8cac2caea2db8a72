"""CloudTrail records as entries: nothing of a record is lost but what the golden list says is masked."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audit_allinone.cloudtrail import SERVICE_SUFFIX, NotCloudTrail, entry_of
from audit_contracts.event import EntryIn
from audit_contracts.masking_policy import MaskingPolicy
from audit_kit.masking import Masker
from tests.cloudtrail_data import records

GOLDEN = Path(__file__).parents[1] / "golden" / "cloudtrail_masked_paths.json"

RECORD: dict[str, Any] = {
    "eventVersion": "1.08",
    "userIdentity": {"type": "IAMUser", "principalId": "AIDA1", "arn": "arn:aws:iam::1:user/alice"},
    "eventTime": "2023-07-10T11:42:18Z",
    "eventSource": "s3.amazonaws.com",
    "eventName": "GetBucketAcl",
    "sourceIPAddress": "192.0.2.7",
    "userAgent": "[Boto3/1.26.165]",
    "requestParameters": {"bucketName": "books", "name": "other"},
    "responseElements": None,
    "requestID": "GXK0PSB1Y7JKAY2B",
    "eventID": "f4cd3135-bebd-4104-a3ab-9660186c883f",
}


def rebuilt(entry: dict[str, Any]) -> dict[str, Any]:
    """The record that `entry` was made of: its metadata, and what fields of the entry say instead."""
    said = {
        "eventID": entry["id"],
        "eventTime": entry["timestamp"],
        "eventName": entry["action"],
        "eventSource": f"{entry['resource_type']}{SERVICE_SUFFIX}",
        "sourceIPAddress": entry.get("ip_address"),
        "userAgent": entry.get("user_agent"),
        "requestID": entry.get("request_id"),
    }
    return {key: value for key, value in said.items() if value is not None} | dict(entry["metadata"])


def test_every_real_record_becomes_an_entry_and_can_be_rebuilt() -> None:
    for record in records():
        entry = entry_of(record)
        msgspec.convert(entry, EntryIn)
        assert rebuilt(entry) == record
        for key in ("userIdentity", "resources", "requestParameters"):
            assert entry["metadata"].get(key, "absent") == record.get(key, "absent")


def test_fields_of_real_records_say_what_the_records_say() -> None:
    entries = [entry_of(record) for record in records()]
    assert Counter(entry["action"] for entry in entries) == Counter(record["eventName"] for record in records())
    assert len({entry["id"] for entry in entries}) == len(entries) == 2_000
    failed = [entry for entry in entries if entry.get("outcome") == "failure"]
    assert len(failed) == sum("errorCode" in record for record in records()) == 224
    assert all(entry["severity"] == "WARNING" for entry in failed)
    assert {entry["source"] for entry in entries} == {"aws.cloudtrail"}
    # Where a service acts on its own, there is no address.
    assert sum("ip_address" in entry for entry in entries) == 1_691
    assert all("request_id" in entry or len(entry["metadata"].get("requestID", "")) != 36 for entry in entries)


def test_what_is_masked_in_real_records_is_the_reviewed_list() -> None:
    masker = Masker(MaskingPolicy(), bytes(32))
    found: dict[str, list[tuple[str, str]]] = {}
    for record in records():
        entry = entry_of(record)
        kept, paths = masker.mask_fields(entry)
        if not paths:
            assert kept == entry
            continue
        found[entry["id"]] = sorted(paths)
        assert masker.mask_fields(kept) == (kept, [])
        for path, _ in paths:
            set_at(kept, path, at(entry, path))
        assert rebuilt(kept) == record, "something was lost that the list does not name"
    assert json.loads(json.dumps(found)) == json.loads(GOLDEN.read_text())


def at(document: Any, pointer: str) -> Any:
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


def set_at(document: Any, pointer: str, value: Any) -> None:
    parent, _, last = pointer.rpartition("/")
    at(document, parent)[last.replace("~1", "/").replace("~0", "~")] = value


def test_a_record_fills_the_entry_as_told() -> None:
    assert entry_of(RECORD) == {
        "id": "f4cd3135-bebd-4104-a3ab-9660186c883f",
        "timestamp": "2023-07-10T11:42:18Z",
        "action": "GetBucketAcl",
        "resource_type": "s3",
        "resource_id": "books",
        "user_id": "arn:aws:iam::1:user/alice",
        "source": "aws.cloudtrail",
        "ip_address": "192.0.2.7",
        "user_agent": "[Boto3/1.26.165]",
        "request_id": "GXK0PSB1Y7JKAY2B",
        "metadata": {
            "eventVersion": "1.08",
            "userIdentity": RECORD["userIdentity"],
            "requestParameters": RECORD["requestParameters"],
            "responseElements": None,
        },
    }


@pytest.mark.parametrize(
    ("identity", "user_id"),
    [
        ({"arn": "a", "principalId": "p", "type": "t"}, "a"),
        ({"principalId": "p", "invokedBy": "i", "type": "t"}, "p"),
        ({"invokedBy": "i", "type": "t"}, "i"),
        ({"type": "AWSService"}, "AWSService"),
        ({"arn": "a" * 300, "principalId": "p"}, "p"),
    ],
)
def test_who_acted_is_the_first_that_is_known(identity: dict[str, str], user_id: str) -> None:
    assert entry_of(RECORD | {"userIdentity": identity})["user_id"] == user_id


@pytest.mark.parametrize(
    ("changes", "resource_id"),
    [
        ({"resources": [{"type": "t"}, {"ARN": "arn:1"}, {"ARN": "arn:2"}]}, "arn:1"),
        ({"requestParameters": {"name": "n", "roleName": "r"}}, "r"),
        ({"requestParameters": {"keyId": {"not": "text"}, "topicArn": "t"}}, "t"),
        ({"requestParameters": None}, "-"),
        ({"requestParameters": {"bucketName": ""}}, "-"),
    ],
)
def test_what_it_was_done_to_is_the_first_that_is_known(changes: dict[str, Any], resource_id: str) -> None:
    assert entry_of(RECORD | changes)["resource_id"] == resource_id


@pytest.mark.parametrize(
    "changes",
    [
        {"sourceIPAddress": "AWS Internal", "userAgent": "AWS Internal"},
        {"sourceIPAddress": "health.amazonaws.com", "userAgent": "health.amazonaws.com"},
        {"sourceIPAddress": "2001:DB8::1"},
        {"requestID": "x" * 129},
        {"requestID": None, "userAgent": None},
        {"userAgent": "u" * 3_000},
        {"eventSource": "partner.example.com"},
        {"eventID": "F4CD3135-BEBD-4104-A3AB-9660186C883F"},
    ],
)
def test_what_no_field_can_hold_stays_in_metadata(changes: dict[str, Any]) -> None:
    entry = entry_of(RECORD | changes)
    msgspec.convert(entry, EntryIn)
    assert {key: entry["metadata"][key] for key in changes} == changes
    assert rebuilt(entry) == RECORD | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"eventID": "7"},
        {"eventID": None},
        {"eventTime": "yesterday"},
        {"eventName": ""},
        {"eventSource": 1},
        {"userIdentity": {}},
        {"userIdentity": None},
    ],
)
def test_a_record_without_the_essentials_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(NotCloudTrail, match=next(iter(changes))):
        entry_of(RECORD | changes)
