"""
Card numbers: an issuer's prefix, a length that the issuer uses, the check digit of ISO/IEC 7812 (Luhn), and boundaries.

Digits of a UUID, a timestamp, a decimal fraction or an identifier such as a role-session name are no card, even where
they would pass the check, as one run of digits in ten does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import re2

from audit_kit.masking_patterns import Spans, ValueRule

# Runs of digits, joined by single spaces, dots or hyphens.
_RUN = re2.compile(rb"[0-9]+(?:[ .-][0-9]+)*")
_GROUP = re2.compile(rb"[0-9]+")
_GROUPINGS: Final = ((4, 4, 4, 4, 3), (4, 4, 4, 4), (4, 6, 5), (4, 6, 4))
_DIGITS_MIN: Final = 13
_DIGITS_MAX: Final = 19

_LONG: Final = frozenset({16, 17, 18, 19})
# First and last prefix of each range, and the lengths in use. Visa's 13 digits are not: none is issued any more, and
# the article numbers of two countries look the same.
_ISSUERS: Final[tuple[tuple[str, str, frozenset[int]], ...]] = (
    ("4", "4", frozenset({16, 19})),  # Visa
    ("51", "55", frozenset({16})),  # Mastercard
    ("2221", "2720", frozenset({16})),
    ("34", "34", frozenset({15})),  # American Express
    ("37", "37", frozenset({15})),
    ("300", "305", frozenset({14})),  # Diners Club
    ("36", "36", frozenset({14})),
    ("38", "39", frozenset({14})),
    ("6011", "6011", _LONG),  # Discover
    ("644", "659", _LONG),
    ("3528", "3589", _LONG),  # JCB
    ("62", "62", _LONG),  # UnionPay
    ("2200", "2204", _LONG),  # Mir
    ("5018", "5018", frozenset(range(13, 20))),  # Maestro
    ("5020", "5020", frozenset(range(13, 20))),
    ("5038", "5038", frozenset(range(13, 20))),
    ("5893", "5893", frozenset(range(13, 20))),
    ("6304", "6304", frozenset(range(13, 20))),
    ("6759", "6763", frozenset(range(13, 20))),
)
_LUHN_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
# After one of these a number is a card's even where `-`, `_` or `.` joins it to the word.
_CARD_WORDS: Final = (b"card", b"cc", b"pan", b"visa", b"amex", b"mastercard", b"number", b"num", b"no", b"nr")


def is_card_number(digits: str) -> bool:
    """Whether some issuer could have issued a card of this number."""
    known = any(len(digits) in lengths and first <= digits[: len(first)] <= last for first, last, lengths in _ISSUERS)
    return known and _passes_luhn(digits)


def _passes_luhn(digits: str) -> bool:
    values = [ord(digit) - 48 for digit in reversed(digits)]
    return (sum(values[0::2]) + sum(_LUHN_DOUBLED[value] for value in values[1::2])) % 10 == 0


def _card_numbers(text: bytes) -> Spans:
    for run in _RUN.finditer(text):
        start, end = run.span()
        start += _percent_digits(text, start)
        if end - start < _DIGITS_MIN or _is_joined_left(text, start):
            # What is joined to an identifier may still be followed, after a space, by a number of its own.
            start = text.find(b" ", start, end) + 1
            if start == 0:
                continue
        if _is_joined_right(text, end):
            end = text.rfind(b" ", start, end)
        yield from _in_groups(text, start, end)


def _in_groups(text: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    groups = [group.span() for group in _GROUP.finditer(text, start, end)] if end > start else []
    lengths = [stop - begin for begin, stop in groups]
    index = 0
    while index < len(groups):
        taken = 0
        for count in _counts_at(lengths, index):
            begin, stop = groups[index][0], groups[index + count - 1][1]
            alone = _is_edge(text, begin - 1, start - 1) and _is_edge(text, stop, end)
            if alone and is_card_number(_digits(text[begin:stop])):
                yield begin, stop
                taken = count
                break
        index += taken or 1


def _counts_at(lengths: list[int], index: int) -> Iterator[int]:
    """How many groups from `index` on may make a card number."""
    for grouping in _GROUPINGS:
        if tuple(lengths[index : index + len(grouping)]) == grouping:
            yield len(grouping)
    if _DIGITS_MIN <= lengths[index] <= _DIGITS_MAX:
        yield 1


def _is_edge(text: bytes, at: int, outside: int) -> bool:
    """Inside a run, only a space parts a card number from other digits."""
    return at == outside or text[at : at + 1] == b" "


def _digits(text: bytes) -> str:
    return text.translate(None, b" .-").decode()


def _percent_digits(text: bytes, start: int) -> int:
    """How many of the first digits belong to a percent-encoded character in front: `%20` or the `0` of `%A0`."""
    if text[start - 1 : start] == b"%" and start:
        return 2
    return int(start >= 2 and text[start - 2 : start - 1] == b"%" and text[start - 1 : start] != b"B")


def _is_joined_left(text: bytes, start: int) -> bool:
    before = text[max(0, start - 16) : start]
    last = before[-1:]
    if last.isalnum():
        # The last character of `%3D`, or the `%B` that opens a magnetic stripe's first track, is no part of a word.
        return before[-3:-2] != b"%" and before[-2:-1] != b"%"
    if last not in (b"-", b"_", b"."):
        return False
    return before[-2:-1].isalnum() and not before[:-1].lower().endswith(_CARD_WORDS)


def _is_joined_right(text: bytes, end: int) -> bool:
    after = text[end : end + 2]
    return after[:1].isalnum() or (after[:1] in (b"-", b"_") and after[1:].isalnum())


CARD_RULE: Final = ValueRule(
    "card_number",
    r"(?:[^0-9A-Za-z]|%[0-9A-Fa-f]{2}|%B|\\[bfnrt]|\\u00[01][0-9a-f])"
    r"(?:[2-6][0-9]{12}|[2-6][0-9]{3}[ .-][0-9]{4,6}[ .-][0-9]{4})",
    _card_numbers,
)
