"""
The exact reading of a refused JSON document: where, by RFC 6901 pointer, and why.

Iterative and linear, whatever the document. It builds no values, only the keys of the objects that are open.
"""

from __future__ import annotations

import json
import re
from math import isinf
from typing import Final, NoReturn

from audit_contracts.errors import Violation
from audit_contracts.json_pointer import pointer

FAULTS_MAX: Final = 100
"""A document with more is read no further."""

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**64 - 1

# Possessive, or without two ways to match the same text: none of these backtracks.
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)((?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")
_WORD: Final = re.compile(r"true|false|null|(-?Infinity|NaN)")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CONTROL: Final = re.compile("[\x00-\x1f]")
_INTEGER_CHARS_MAX: Final = 20
"""Both bounds have so many, sign included."""


def faults(raw: bytes, depth_max: int) -> list[Violation]:
    """The faults of a document in the order they stand there, at most `FAULTS_MAX`; none if the document is clean."""
    if raw.startswith(b"\xef\xbb\xbf"):
        return [Violation("", "starts with a byte order mark; send UTF-8 without one", "byte_order_mark")]
    # Bytes that are not UTF-8 come out as lone surrogates, which valid UTF-8 never holds.
    return _Reading(raw.decode("utf-8", "surrogateescape"), depth_max).run()


class _Stop(Exception):
    """Nothing after this fault can be told."""


class _Open:
    """An array or object that is being read: its keys so far, and the token of the child at hand."""

    __slots__ = ("keys", "token")

    def __init__(self, keys: set[str] | None) -> None:
        self.keys = keys
        self.token: str | int = 0


class _Reading:
    def __init__(self, text: str, depth_max: int) -> None:
        self._text = text
        self._depth_max = depth_max
        self._at = 0
        self._open: list[_Open] = []
        self._found: list[Violation] = []

    def run(self) -> list[Violation]:
        try:
            self._value()
            while self._open:
                self._step()
            self._skip()
            if self._at < len(self._text):
                self._broken("the end")
        except _Stop:
            pass
        return self._found

    def _step(self) -> None:
        """Read on inside the innermost open array or object, which has just begun or just had a child."""
        top = self._open[-1]
        if top.keys is None:
            if self._closes("]"):
                return
            if top.token != 0:
                self._expect(",")
            self._value()
            if self._open[-1] is top:
                top.token = int(top.token) + 1
            return
        if self._closes("}"):
            return
        if top.keys:
            self._expect(",")
        self._key(top, top.keys)
        self._expect(":")
        self._value()

    def _closes(self, bracket: str) -> bool:
        self._skip()
        if not self._text.startswith(bracket, self._at):
            return False
        self._at += 1
        self._open.pop()
        if self._open and self._open[-1].keys is None:
            self._open[-1].token = int(self._open[-1].token) + 1
        return True

    def _key(self, top: _Open, keys: set[str]) -> None:
        self._skip()
        if not self._text.startswith('"', self._at):
            self._broken("a key in quotes")
        top.token = ""
        key = self._string(of_key=True)
        top.token = key
        if key in keys:
            self._fault("this key stands twice in one object", "duplicate_key")
        keys.add(key)

    def _value(self) -> None:
        self._skip()
        lead = self._text[self._at : self._at + 1]
        if lead == '"':
            self._string(of_key=False)
        elif lead in ("{", "["):
            if len(self._open) >= self._depth_max:
                self._fault(f"nested deeper than {self._depth_max}", "too_deep")
                raise _Stop
            self._at += 1
            self._open.append(_Open(set() if lead == "{" else None))
        elif word := _WORD.match(self._text, self._at):
            self._at = word.end()
            if word.group(1):
                self._fault("NaN and infinity are not JSON numbers", "not_finite")
        else:
            self._number()

    def _number(self) -> None:
        number = _NUMBER.match(self._text, self._at)
        if number is None:
            self._broken("a value")
        self._at = number.end()
        digits = number.group()
        if not number.group(1):
            if len(digits) > _INTEGER_CHARS_MAX or not INTEGER_MIN <= int(digits) <= INTEGER_MAX:
                self._fault("the integer is outside -2^63 … 2^64-1", "integer_range")
        elif isinf(float(digits)):
            self._fault("the number is too large for a double", "float_range")

    def _string(self, *, of_key: bool) -> str:
        token = _STRING.match(self._text, self._at)
        if token is None:
            self._broken("a string to end")
        written = token.group()
        try:
            string: str = json.loads(written, strict=False)
        except json.JSONDecodeError:
            self._broken("a string with known escapes only")
        self._at = token.end()
        if of_key and self._open:
            self._open[-1].token = string
        if _SURROGATE.search(written):
            self._fault("not valid UTF-8", "not_utf8")
        elif _SURROGATE.search(string):
            self._fault("holds half a surrogate pair", "lone_surrogate")
        if "\0" in string:
            self._fault("holds a NUL character", "nul_character")
        elif _CONTROL.search(written):
            self._fault("holds a control character that is not escaped", "not_json")
        return string

    def _skip(self) -> None:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at

    def _expect(self, mark: str) -> None:
        self._skip()
        if not self._text.startswith(mark, self._at):
            self._broken(f"'{mark}'")
        self._at += 1

    def _broken(self, wanted: str) -> NoReturn:
        self._fault(f"not JSON: expected {wanted} at character {self._at}", "not_json")
        raise _Stop

    def _fault(self, detail: str, code: str) -> None:
        self._found.append(Violation(pointer(level.token for level in self._open), detail, code))
        if len(self._found) >= FAULTS_MAX:
            raise _Stop
