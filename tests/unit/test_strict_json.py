"""The strictness check: what it refuses, where it points, and that it agrees with a plain reading."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_contracts.errors import InvalidEntry
from audit_contracts.strict_json import DEPTH_MAX, loads, split_array, split_lines


def faults_of(raw: bytes) -> list[tuple[str, str]]:
    with pytest.raises(InvalidEntry) as refused:
        loads(raw)
    return [(fault.pointer, fault.code) for fault in refused.value.violations]


@pytest.mark.parametrize(
    ("raw", "faults"),
    [
        (b'{"a":1,"b":[1,2,{"c":1,"c":2}],"a":3}', [("/b/2/c", "duplicate_key"), ("/a", "duplicate_key")]),
        (b'{"a":1,"\\u0061":2}', [("/a", "duplicate_key")]),
        # Colons are what betrays a dropped pair; here the later value brings one back, plain and escaped.
        (b'{"a":"x","a":":"}', [("/a", "duplicate_key")]),
        (b'{"a":"\\u003a","a":1}', [("/a", "duplicate_key")]),
        (b'{"a":"\\u003A\\\\u003a","a":":::"}', [("/a", "duplicate_key")]),
        (b'{"a": {"x":1} , "a":{"x":1,"y":2}}', [("/a", "duplicate_key")]),
        (b'{"a":"\\u0000"}', [("/a", "nul_character")]),
        (b'{"a":"\\\\\\u0000"}', [("/a", "nul_character")]),
        (b'{"a":"\x00"}', [("/a", "nul_character")]),
        (b'{"k\\u0000":1}', [("/k\0", "nul_character")]),
        (b'["\\ud800", "\\udc00x", "\\ud800\\u0041"]', [(f"/{i}", "lone_surrogate") for i in range(3)]),
        (b'{"\\udfff":1}', [("/\ufffd", "lone_surrogate")]),
        (b'{"a":"\xff"}', [("/a", "not_utf8")]),
        (b'{"a":"\xed\xa0\x80"}', [("/a", "not_utf8")]),
        (b'{"a":"\xc0\x80"}', [("/a", "not_utf8")]),
        (b"[NaN,Infinity,-Infinity]", [(f"/{i}", "not_finite") for i in range(3)]),
        (b"[1e400,-1E+999]", [("/0", "float_range"), ("/1", "float_range")]),
        (b'{"n":18446744073709551616}', [("/n", "integer_range")]),
        (b'{"n":-9223372036854775809}', [("/n", "integer_range")]),
        (b"1" * 5000, [("", "integer_range")]),
        (b"\xef\xbb\xbf{}", [("", "byte_order_mark")]),
        (b'{"a":"\x1b"}', [("/a", "not_json")]),
        (b"", [("", "not_json")]),
        (b"{} {}", [("", "not_json")]),
        (b'{"a":{"b":[1,tru]}}', [("/a/b/1", "not_json")]),
        (b"[1,]", [("/1", "not_json")]),
        (b'{"a":1,}', [("/a", "not_json")]),
        (b'{"a" 1}', [("/a", "not_json")]),
        (b'{"a":"b', [("/a", "not_json")]),
        (b'["\\x41"]', [("/0", "not_json")]),
        (b'{"x/y":{"~":[0,01]}}', [("/x~1y/~0/2", "not_json")]),
    ],
)
def test_a_fault_is_refused_with_its_pointer(raw: bytes, faults: list[tuple[str, str]]) -> None:
    found = faults_of(raw)
    assert found[: len(faults)] == faults
    assert all(code == "not_json" for _, code in found[len(faults) :])


@pytest.mark.parametrize(
    "raw",
    [
        b"0",
        b"-0",
        b"18446744073709551615",
        b"-9223372036854775808",
        b"1e-400",
        b"1.7976931348623157e308",
        b"12345678901234567890123456789.5",
        b' {"a" : [ 1 , {"b":":"} ] , "c":"::\\u003a" }\r\n',
        b'{"a":"\\\\u0000","b":"\\\\u003a","c":"\\\\"}',
        b'["\\ud83d\\ude00","\xf0\x9f\x98\x80","\\u007f","\\u0001"]',
        b'{"":{"":{"":0}}}',
        b'["]","[","}","{"]',
    ],
)
def test_what_only_looks_like_a_fault_is_taken(raw: bytes) -> None:
    assert loads(raw) == json.loads(raw)


def test_depth_is_bounded_exactly() -> None:
    assert loads(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX) is not None
    assert loads(b'{"a":' * DEPTH_MAX + b"1" + b"}" * DEPTH_MAX) is not None
    assert faults_of(b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1)) == [("/0" * DEPTH_MAX, "too_deep")]
    assert loads(b"[" + b"[]," * 100 + b'["[["]]', depth_max=2) is not None


def test_brackets_in_strings_hide_no_depth() -> None:
    raw = b'["]",' * 40 + b"1" + b"]" * 40
    assert faults_of(raw) == [("/1" * DEPTH_MAX, "too_deep")]


@pytest.mark.parametrize("raw", [b"[" * 1_000_000, b'{"a":' * 200_000, b'[{"a":' * 100_000 + b"1"])
def test_endless_nesting_ends_quickly(raw: bytes) -> None:
    assert [code for _, code in faults_of(raw)] == ["too_deep"]


def test_a_long_key_is_cut_in_its_pointer() -> None:
    key = "k" * 10_000
    [(found, _)] = faults_of(json.dumps({key: 1}).replace("1}", f'1,"{key}":2}}').encode())
    assert len(found) == 130


def test_a_document_full_of_faults_lists_the_first_hundred() -> None:
    assert len(faults_of(b"[" + b"NaN," * 500 + b"1]")) == 100


def test_naming_faults_takes_linear_time() -> None:
    """Twice the document may take twice the time; ten times would show a quadratic reading."""

    def seconds(raw: bytes) -> float:
        began = time.process_time()
        faults_of(raw)
        return time.process_time() - began

    for unit in (b'{"a":1},', b'"' + b"\\\\" * 100 + b'",', b"1.5,", b'"x":1,'):
        opens, closes = (b"{", b"}") if unit.startswith(b'"x') else (b"[", b"]")
        times = [seconds(opens + unit * count + b"NaN" + closes) for count in (2_000, 20_000)]
        assert times[1] < 60 * times[0] + 0.05


def plain_reading(raw: bytes) -> Any:
    """The same rules, told with the standard library on a document of little depth."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in found]
        if len(set(keys)) != len(keys):
            raise ValueError("duplicate key")
        return dict(found)

    def integer(digits: str) -> int:
        if not -(2**63) <= int(digits) < 2**64:
            raise ValueError("integer")
        return int(digits)

    def real(digits: str) -> float:
        if math.isinf(float(digits)):
            raise ValueError("float")
        return float(digits)

    def constant(word: str) -> None:
        raise ValueError(word)

    text = raw.decode()
    value = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=real, parse_constant=constant)
    dumped = json.dumps(value, ensure_ascii=False)
    dumped.encode()
    if "\\u0000" in dumped.replace("\\\\", ""):
        raise ValueError("nul")
    return value


words = [
    *('"a"', '"b"', '"a:"', '"é"', '""', r'"\u003a"', r'"\\u0000"', r'"\u0000"', r'"\u0061"', r'"\ud800"'),
    *("1", "-1.5", "1e9", "1e999", "18446744073709551616", "-9223372036854775808", "NaN", "null", "true"),
]
scraps = st.sampled_from([*words, *"{}[],: "])
keys = st.sampled_from(['"a"', '"b"', '"\\u0061"', '"a:"', '"a\\u003A"', '"\\\\"', '"\\u0000"'])
documents = st.recursive(
    st.sampled_from(words),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: "[" + ",".join(items) + "]")
        | st.lists(st.tuples(keys, inner), max_size=4).map(
            lambda items: "{" + ", ".join(f"{key}:{value}" for key, value in items) + "}"
        )
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(documents | st.lists(scraps, max_size=12).map("".join))
def test_it_takes_and_refuses_what_a_plain_reading_does(text: str) -> None:
    raw = text.encode()
    try:
        expected = plain_reading(raw)
    except ValueError:
        assert faults_of(raw)
    else:
        assert loads(raw) == expected


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | st.binary(max_size=8).map(lambda inner: b'{"a":"' + inner + b'"}'))
def test_any_bytes_give_a_value_or_a_refusal(raw: bytes) -> None:
    try:
        expected = plain_reading(raw)
    except ValueError:
        assert faults_of(raw)
    else:
        assert loads(raw) == expected


def test_an_array_is_split_without_being_read() -> None:
    assert split_array(b' [ {"a":1,"a":2} , "\xff", 1e999, [ ] ] ') == [b'{"a":1,"a":2}', b'"\xff"', b"1e999", b"[ ]"]
    assert split_array(b"[]") == []


@pytest.mark.parametrize("raw", [b'{"a":1}', b"[1", b"", b"[1,]", b"[" * 500_000, b"null", b"[1] x"])
def test_what_is_not_an_array_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidEntry, match="not a JSON array"):
        split_array(raw)


def test_lines_are_split_at_line_feeds_alone() -> None:
    assert split_lines(b'{"a":"\xe2\x80\xa8"}\r\n\n  \r\n{}\x0b\n1') == [b'{"a":"\xe2\x80\xa8"}\r', b"{}\x0b", b"1"]
    assert loads(b'{"a":1}\r') == {"a": 1}
