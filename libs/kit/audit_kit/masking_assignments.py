"""
Secrets that running text gives a name: `password=…`, `?access_token=…`, `Authorization: …`, `--api-key …`, and JSON
inside a string, escaped however often or percent-encoded.
"""

from __future__ import annotations

from typing import Final

import re2

from audit_kit.masking_keys import SecretKeys
from audit_kit.masking_patterns import Spans, ValueRule

_NAME_CHARS_MAX: Final = 64
_HEADERS: Final = ("authorization", "cookie")
_BRACKETS: Final = {0x7B: 0x7D, 0x5B: 0x5D}

_NAME_CHARS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.$-"
_KEPT_WORD = re2.compile(rb"(?:null|true|false|None|True|False)(?:[\s,;&}\])\"']|\z)")
_PLAIN = re2.compile(rb"[^\s,;&\"'`]+")
_PERCENT_STOP = re2.compile(rb"(?i)%(?:0a|0d|20|22|26|27|2c|3b|5d|7d)")
_LINE = re2.compile(rb"[^\r\n\"'`]+")
_BRACKET = re2.compile(rb"[\[\]{}]")
_OPENING = re2.compile(rb"(\\*)([\"'`])")


class Assignments:
    """The rule for the names that `keys` knows."""

    def __init__(self, keys: SecretKeys) -> None:
        self._keys = keys
        names, tail = f"(?:{keys.names()})", r"[0-9_)\]-]{0,4}"
        space = r"(?:\s|%20|\+)*"
        quote = r"(?:\\*[\"'`]|(?:%5[Cc])*%2[27])?"
        sign = r"(?:=>|:=|==?|:|%3[ADad])"
        self._sign = re2.compile(
            rf"(?i)({names}{tail})(?:({quote})({space}{sign}{space})|[ \t]+)".encode(),
        )
        # In compact JSON, quotes inside strings carry a backslash, and white space may be an escape.
        between = r"(?:\\*['`]|\\+\"|(?:%5c)*%2[27])?(?:[ \t+]|%20|\\+[nrt])*"
        signs = rf"{names}{tail}{between}(?:=|%3[ad])|[^:]{names}{tail}{between}:"
        guard = rf"(?i)(?:{signs}|-[a-z0-9_.-]*{names}{tail}(?:[ \t]|\\+t))"
        self.rule: Final = ValueRule("assignment", guard, self._spans)

    def _spans(self, text: bytes) -> Spans:
        done = 0
        for match in self._sign.finditer(text):
            start = match.start()
            if start < done:
                continue
            before = text[max(done, start - _NAME_CHARS_MAX) : start]
            begin = start - (len(before) - len(before.rstrip(_NAME_CHARS)))
            name = text[begin : match.end(1)].decode()
            sign = _bare(match.group(3) or b"")
            if not self._names_a_secret(text, begin, name, sign):
                continue
            span = _value_span(text, match.end(), name, sign, bool(match.group(2)))
            if span is not None and span[0] < span[1]:
                yield span
                done = span[1]

    def _names_a_secret(self, text: bytes, begin: int, name: str, sign: bytes) -> bool:
        if not sign and not name.startswith("-"):
            return False
        # Parts of an ARN, as in `:secret:name`, stand between colons.
        if sign == b":" and text[max(0, begin - 1) : begin] == b":":
            return False
        return self._keys.mode_of(name) is not None


def _bare(sign: bytes) -> bytes:
    return sign.replace(b"%20", b"").replace(b"+", b"").strip()


def _value_span(text: bytes, at: int, name: str, sign: bytes, quoted: bool) -> tuple[int, int] | None:
    """The span of the value that starts at `at`, without its quotes."""
    if opening := _OPENING.match(text, at):
        return _quoted_span(text, opening.end(), len(opening.group(1)), opening.group(2))
    if text.startswith((b"%22", b"%27"), at):
        end = text.find(text[at : at + 3], at + 3)
        return at + 3, len(text) if end < 0 else end
    if _KEPT_WORD.match(text, at):
        return None
    if not sign and text.startswith(b"-", at):
        return None
    if text[at : at + 1] in (b"{", b"["):
        return at, _closing(text, at)
    if sign == b":" and not quoted and name.lower().endswith(_HEADERS):
        plain = _LINE.match(text, at)
    else:
        plain = _PLAIN.match(text, at)
    if plain is None:
        return None
    if sign.startswith(b"%") and (stop := _PERCENT_STOP.search(text, at, plain.end())):
        return at, stop.start()
    return at, at + len(plain.group().rstrip(b" \t)]}>."))


def _quoted_span(text: bytes, start: int, backslashes: int, quote: bytes) -> tuple[int, int]:
    """
    Up to the quote that closes, in JSON that was put into a string as often as the opening quote's backslashes tell.

    A quote with n backslashes closes one that opened with b where n + 1 is an odd multiple of b + 1; where it is an
    even one, the quote belongs to the value.
    """
    at = text.find(quote, start)
    while at >= 0:
        bare = at
        while bare > start and text[bare - 1] == 0x5C:
            bare -= 1
        count = at - bare
        if count < backslashes:
            return start, bare
        if (count + 1) // (backslashes + 1) % 2 == 1:
            return start, at - backslashes
        at = text.find(quote, at + 1)
    return start, len(text)


def _closing(text: bytes, at: int) -> int:
    """The end of the array or object that opens at `at`; of the text, where it stays open."""
    depth = 0
    for bracket in _BRACKET.finditer(text, at):
        depth += 1 if text[bracket.start()] in _BRACKETS else -1
        if depth == 0:
            return bracket.end()
    return len(text)
