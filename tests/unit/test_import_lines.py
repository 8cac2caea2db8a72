"""Lines of files, packed or not; and the entries that are made of them."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from audit_allinone.failures import Failure
from audit_allinone.import_entries import REQUEST_BYTES_MAX, REQUEST_ENTRIES_MAX, Chunk, Format, chunks
from audit_allinone.import_lines import LINE_BYTES_MAX, Line, opened_lines

Pack = Callable[[bytes], bytes]
PACKS = pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])


def read(tmp_path: Path, raw: bytes) -> list[Line]:
    path = tmp_path / "file"
    path.write_bytes(raw)
    with opened_lines(path) as lines:
        found = list(lines)
        assert lines.read == lines.size == len(raw)
    return found


@PACKS
def test_lines_are_numbered_from_one_and_blank_ones_passed_over(tmp_path: Path, pack: Pack) -> None:
    found = read(tmp_path, pack(b"one\r\n\n  \ntwo\nthree"))
    assert found == [Line(1, b"one", False), Line(4, b"two", False), Line(5, b"three", False)]


@PACKS
def test_an_empty_file_has_no_lines(tmp_path: Path, pack: Pack) -> None:
    assert read(tmp_path, pack(b"")) == []


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_files_packed_one_after_the_other_are_one_file(tmp_path: Path, pack: Pack) -> None:
    assert [line.text for line in read(tmp_path, pack(b"one\n") + pack(b"two\n"))] == [b"one", b"two"]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize("cut", [5, 1])
def test_a_cut_file_is_told_from_a_whole_one(tmp_path: Path, pack: Pack, cut: int) -> None:
    (tmp_path / "file").write_bytes(pack(b"".join(b"%d\n" % number for number in range(10_000)))[:-cut])
    with opened_lines(tmp_path / "file") as lines, pytest.raises(Failure, match="broken or cut short"):
        list(lines)


@PACKS
def test_a_line_without_end_is_cut_and_the_next_one_is_whole(tmp_path: Path, pack: Pack) -> None:
    longest = b"x" * LINE_BYTES_MAX
    found = read(tmp_path, pack(longest + b"\n" + 3 * longest + b"\nnext\n" + longest + b"y"))
    assert [(line.number, len(line.text), line.is_cut) for line in found] == [
        (1, LINE_BYTES_MAX, False),
        (2, LINE_BYTES_MAX + 1, True),
        (3, 4, False),
        (4, LINE_BYTES_MAX + 1, True),
    ]


def entries(texts: Sequence[bytes]) -> list[dict[str, object]]:
    made = chunks((Line(number, text, False) for number, text in enumerate(texts, 1)), Format.NDJSON)
    return [orjson.loads(item.entry) for chunk in made for item in chunk.items]


OBJECTS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 3), max_size=2).map(orjson.dumps), max_size=12
)


@given(OBJECTS, st.integers(0, 12))
def test_ids_are_the_lines_own_the_same_each_time_and_kept_when_the_file_grows(texts: list[bytes], cut: int) -> None:
    made = entries(texts)
    ids = [entry.pop("id") for entry in made]
    assert made == [orjson.loads(text) for text in texts]
    assert len(set(ids)) == len(ids)
    assert [entry["id"] for entry in entries(texts[:cut])] == ids[:cut]


def test_an_entry_goes_out_in_the_bytes_that_it_came_in() -> None:
    with_id = b'{"id": "1", "share": 1.50}'
    without = b'{ "share": 1.50, "\\u0061": 10000000000000000000000}'
    (chunk,) = chunks([Line(1, with_id, False), Line(2, b' {"share": 1.50} ', False)], Format.NDJSON)
    assert chunk.items[0].entry == with_id
    assert chunk.items[1].entry.endswith(b'","share": 1.50}')
    # What no reader of ours takes is not sent at all.
    (chunk,) = chunks([Line(1, without, False)], Format.NDJSON)
    assert (chunk.items, [reject.line.number for reject in chunk.rejects]) == ([], [1])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (Line(1, b"x" * 10, True), f"longer than {LINE_BYTES_MAX} bytes"),
        (Line(1, b"[]", False), "not a JSON object"),
        (Line(1, b"{", False), "not JSON"),
        (Line(1, b'{"eventID": "1"}', False), "eventID is missing or is not a UUID"),
    ],
)
def test_what_is_no_record_is_rejected_with_its_reason(line: Line, reason: str) -> None:
    (chunk,) = chunks([line], Format.CLOUDTRAIL)
    assert not chunk.items
    (reject,) = chunk.rejects
    assert reject.line is line
    assert reject.reason.startswith(reason)


def sizes(made: list[Chunk]) -> list[tuple[int, int]]:
    return [(len(chunk.items), sum(len(item.entry) + 1 for item in chunk.items)) for chunk in made]


def test_requests_are_bounded_in_entries_and_bytes() -> None:
    many = (Line(number, b"{}", False) for number in range(2 * REQUEST_ENTRIES_MAX + 1))
    assert [count for count, _ in sizes(list(chunks(many, Format.NDJSON)))] == [REQUEST_ENTRIES_MAX] * 2 + [1]
    large = [Line(number, b'{"a":"%s"}' % (b"x" * 700_000), False) for number in range(5)]
    made = sizes(list(chunks(large, Format.NDJSON)))
    assert sum(count for count, _ in made) == 5
    assert all(size <= REQUEST_BYTES_MAX for _, size in made)
