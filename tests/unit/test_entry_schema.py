"""The two models of an entry: msgspec's, which decides, and pydantic's, which is published."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from pydantic import ValidationError

from audit_contracts import strict_json
from audit_contracts.entry_schema import AliasConflict, EntryModel, resolve_aliases
from audit_contracts.errors import InvalidEntry
from audit_contracts.event import ALIASES, EntryIn

VALID: dict[str, Any] = {"user_id": "u", "action": "UPDATE", "resource_type": "invoice", "resource_id": "7"}

_words = st.sampled_from(
    ["", "a", "UPDATE", "a\n", "a b", "é", "😀" * 257, "INFO", "info", "success", "Success", "auditlog", "a/b@c:d"]
) | st.builds(
    lambda char, count: char * count, st.sampled_from("xü/+٣\u2028\r"), st.sampled_from([1, 127, 128, 129, 256])
)
_uuids = st.uuids().map(str) | st.sampled_from(
    [
        "12345678123456781234567812345678",
        "12345678-1234-5678-1234-56781234567A",
        "{12345678-1234-5678-1234-567812345678}",
        "urn:uuid:12345678-1234-5678-1234-567812345678",
        "1234567812345678-1234567812345678",
        "12345678-12345678-1234-567812345678",
        "12345678-1234-5678-1234-567812345678\n",
        "٣" * 32,
    ]
)
_moments = st.builds(
    "{}{}{}{}{}".format,
    st.dates().map(str) | st.sampled_from(["0000-01-01", "2026-02-29", "9999-12-31", "2026-1-1", "20260101"]),
    st.sampled_from(["T", "t", " ", "_", ""]),
    st.times().map(lambda t: f"{t:%H:%M:%S}") | st.sampled_from(["23:59:59", "24:00:00", "23:59:60", "12:00"]),
    st.sampled_from(["", ".", ".5", ".1234565", ".1234564999", ".9999995", ".999999", ",5", ".123456789012345678"]),
    st.sampled_from(
        ["Z", "z", "", "+00:00", "-00:00", "+23:59", "-23:59", "+24:00", "+01:60", "+0130", "+01", " Z", "Z\n"]
    ),
)
_numbers = (
    st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1.0, 0, -1, 2**63])
)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | _words | _uuids | _moments,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=6,
)
_fields = st.sampled_from([*EntryIn.__struct_fields__, *ALIASES, "unknown", "Action", ""])
_documents = st.builds(
    lambda kept, changed: {**kept, **changed},
    st.sampled_from([*[VALID] * 9, *({k: v for k, v in VALID.items() if k != out} for out in VALID)]),
    st.dictionaries(_fields, _json | _words, max_size=1)
    | st.fixed_dictionaries({}, optional={"timestamp": _moments, "id": _uuids, "producer_seq": _numbers}),
)


def by_msgspec(document: dict[str, Any]) -> EntryIn | None:
    try:
        return msgspec.convert(resolve_aliases(document), EntryIn)
    except (msgspec.ValidationError, AliasConflict):
        return None


def by_pydantic(document: dict[str, Any]) -> EntryModel | None:
    try:
        return EntryModel.model_validate(document)
    except ValidationError:
        return None


@settings(max_examples=500)
@given(_documents)
def test_both_models_accept_and_refuse_the_same(document: dict[str, Any]) -> None:
    try:
        clean = strict_json.loads(orjson.dumps(document))
    except InvalidEntry:
        return
    one, other = by_msgspec(clean), by_pydantic(clean)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert {name: getattr(one, name) for name in one.__struct_fields__} == dict(other)


@pytest.mark.parametrize("fraction", ["", ".5", ".1234565", ".1234564999", ".9999995"])
@pytest.mark.parametrize("zone", ["Z", "+01:00", "-0530"])
def test_both_models_read_the_same_moment(fraction: str, zone: str) -> None:
    document = {**VALID, "timestamp": f"2026-01-31T23:59:59{fraction}{zone}"}
    one, other = by_msgspec(document), by_pydantic(document)
    assert one is not None
    assert other is not None
    assert one.timestamp == other.timestamp


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_fills_its_field(alias: str) -> None:
    name = ALIASES[alias]
    document = {k: v for k, v in VALID.items() if k != name} | {alias: "LOGIN"}
    one, other = by_msgspec(document), by_pydantic(document)
    assert getattr(one, name) == getattr(other, name) == "LOGIN"


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("value", ["LOGIN", None])
def test_a_field_under_both_names_is_refused_even_where_one_is_null(alias: str, value: str | None) -> None:
    document = {**VALID, ALIASES[alias]: "LOGIN", alias: value}
    with pytest.raises(AliasConflict):
        resolve_aliases(document)
    assert by_pydantic(document) is None


def test_the_model_can_be_filled_from_python_values() -> None:
    entry = EntryModel(
        user_id="u",
        action="A",
        resource_type="r",
        resource_id="1",
        id=UUID(int=7),
        timestamp=datetime.fromisoformat("2026-01-01T00:00:00+00:00"),
    )
    assert entry.id == UUID(int=7)
    with pytest.raises(ValidationError, match="zone"):
        EntryModel.model_validate({**VALID, "timestamp": datetime(2026, 1, 1)})  # noqa: DTZ001


def test_the_published_schema_takes_its_own_examples_and_knows_the_aliases() -> None:
    schema = EntryModel.model_json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    example = {name: field["examples"][0] for name, field in schema["properties"].items() if name not in ALIASES}
    assert validator.is_valid(example)
    assert by_msgspec(example) is not None
    assert validator.is_valid({"action_type": "A", **{k: v for k, v in VALID.items() if k != "action"}})


@pytest.mark.parametrize(
    "change",
    [
        {"action_type": "A"},
        {"before": 1, "before_state": 1},
        {"unknown": 1},
        {"action": "auditlog.read"},
        {"source": "auditlog"},
        {"severity": "info"},
        {"id": "12345678-12345678-1234-567812345678"},
        {"producer_seq": -1},
    ],
)
def test_the_published_schema_refuses_what_ingest_refuses(change: dict[str, Any]) -> None:
    assert not Draft202012Validator(EntryModel.model_json_schema()).is_valid({**VALID, **change})
