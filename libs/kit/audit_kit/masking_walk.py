"""
One entry being masked: its values walked, each string searched, and what was masked told by path and rule.

What changes is copied, the rest is shared with the entry as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

import orjson
import re2

from audit_contracts.json_pointer import pointer
from audit_contracts.masking_policy import MODES, Mode
from audit_contracts.strict_json import try_loads
from audit_kit.masking_cards import CARD_RULE
from audit_kit.masking_rules import Rule, Tripped

MaskedPath = tuple[str, str]
"""Where something was masked, as a JSON pointer into the entry, and by which rule. Never a value."""

PATHS_MAX: Final = 256
PATHS_CHARS_MAX: Final = 16_384
SECRETS_MAX: Final = 1_000
"""Found in the strings of one entry; each string after that is redacted unread, under the rule `too_many`, so that no
entry costs more than some 100 ms."""

_MARKER = re2.compile(rb"\[(?:REDACTED|HASH:[0-9a-f]{32}|LAST4:[0-9A-Za-z]{4})\]")
_MARKER_CHARS_MAX: Final = 40
_ACCESS_KEY_ID = re2.compile(r"A[KS]IA[A-Z0-9]{12,124}")
_CARD_MIN: Final = 10**12
_EMBEDDED_DEPTH_MAX: Final = 3
_PASSES_MAX: Final = 6
_KEY_RULE: Final = "key"
_TOO_MANY_RULE: Final = "too_many"
_SECRET_CHARS_MIN: Final = 5

_Path = tuple[Any, str | int]
"""The path of the parent, or None for the entry itself, and the last token."""


class Walk:
    """One entry being masked."""

    def __init__(self, tripped: Tripped, stand_in: Callable[[str, Mode], str]) -> None:
        """`stand_in` gives what takes the place of a secret."""
        self._rules = tripped.rules
        self._every = tripped.every
        self._keys = tripped.keys
        self._stand_in = stand_in
        self._secrets_left = SECRETS_MAX
        self._cards = any(rule.rule is CARD_RULE for rule in tripped.rules)
        self._found: dict[MaskedPath, None] = {}
        self._embedded_in: list[_Path] = []

    def rules_in(self, text: str, rules: tuple[Rule, ...]) -> list[str]:
        """The names of those of `rules` that find a secret in `text`."""
        spans = self._spans(text.encode(), rules)
        return [_TOO_MANY_RULE] if spans is None else list(dict.fromkeys(rule.name for _, _, rule in spans))

    def note(self, field: str, rules: Iterable[str]) -> None:
        """Have these rules on the list for a whole field."""
        for rule in rules:
            self._note((None, field), rule)

    def paths(self) -> list[MaskedPath]:
        """What was masked so far; of very many places only the fields that hold them."""
        if len(self._found) <= PATHS_MAX and sum(len(path) for path, _ in self._found) <= PATHS_CHARS_MAX:
            return list(self._found)
        return list(dict.fromkeys((f"/{path.split('/', 2)[1]}", rule) for path, rule in self._found))

    def value(self, value: Any, path: _Path) -> Any:
        """`value` as it is to be kept: itself where nothing in it is masked."""
        kind = type(value)
        if kind is str:
            return self._text(value, path)
        if kind is dict:
            return self._object(value, path)
        if kind is list or kind is tuple:
            kept = [self.value(item, (path, index)) for index, item in enumerate(value)]
            return kept if any(new is not old for new, old in zip(kept, value, strict=True)) else value
        if kind is int and self._cards and value >= _CARD_MIN:
            text = str(value)
            masked = self._in_text(text, path)
            return value if masked is text else masked
        return value

    def _object(self, item: dict[str, Any], path: _Path) -> dict[str, Any]:
        named = self._keys.named_values(item)
        kept: dict[str, Any] = {}
        changed = False
        for key, kept_key in self._kept_keys(item, path):
            value = item[key]
            here = (path, kept_key)
            mode = self._keys.mode_of(key)
            if mode is None and key in named:
                mode = "redact"
            if mode is None:
                new = self.value(value, here)
            else:
                new = self._leaves(value, mode, here)
                if new is not value:
                    self._note(here, _KEY_RULE)
            kept[kept_key] = new
            changed = changed or new is not value or kept_key is not key
        return kept if changed else item

    def _kept_keys(self, item: dict[str, Any], path: _Path) -> Iterator[tuple[str, str]]:
        """Each key and what is kept of it; two keys never become one."""
        if not self._rules:
            yield from ((key, key) for key in item)
            return
        taken: dict[str, int] = {}
        for key in item:
            masked, rules = self._replaced(key)
            if masked is key:
                yield key, key
                continue
            kept = masked
            while kept in item or kept in taken:
                taken[masked] = taken.get(masked, 0) + 1
                kept = f"{masked}#{taken[masked]}"
            taken.setdefault(kept, 0)
            for rule in rules:
                self._note((path, kept), rule)
            yield key, kept

    def _leaves(self, value: Any, mode: Mode, path: _Path) -> Any:
        """What stands under a secret's key: every leaf masked but null, booleans, "" and access-key ids."""
        kind = type(value)
        if kind is dict:
            kept = {
                kept_key: self._leaves(value[key], mode, (path, kept_key))
                for key, kept_key in self._kept_keys(value, path)
            }
            same = all(new is old and a is b for (a, new), (b, old) in zip(kept.items(), value.items(), strict=True))
            return value if same else kept
        if kind is list or kind is tuple:
            items = [self._leaves(item, mode, (path, index)) for index, item in enumerate(value)]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if value is None or kind is bool or value == "":
            return value
        if kind is str and (_MARKER.fullmatch(value.encode()) or _ACCESS_KEY_ID.fullmatch(value)):
            return value
        return self._stand_in(str(value), mode)

    def _text(self, text: str, path: _Path) -> str:
        if text.lstrip(" \t\r\n")[:1] in ("{", "[") and len(self._embedded_in) < _EMBEDDED_DEPTH_MAX:
            value = try_loads(text.encode())
            if type(value) in (dict, list):
                # A pointer can't lead into a string, so what is found inside is told of the string.
                self._embedded_in.append(path)
                kept = self.value(value, path)
                self._embedded_in.pop()
                return text if kept is value else orjson.dumps(kept).decode()
        return self._in_text(text, path)

    def _in_text(self, text: str, path: _Path) -> str:
        masked, rules = self._replaced(text)
        for rule in rules:
            self._note(path, rule)
        return masked

    def _replaced(self, text: str) -> tuple[str, list[str]]:
        """The text with every secret replaced, itself if there is none, and the names of the rules that found some."""
        if not self._rules or len(text) < _SECRET_CHARS_MIN:
            return text, []
        data = text.encode()
        names: dict[str, None] = {}
        for _ in range(_PASSES_MAX):
            spans = self._spans(data, self._every if names else self._rules) if self._secrets_left > 0 else None
            if spans is None or len(spans) > self._secrets_left:
                self._secrets_left = 0
                return (text, []) if _MARKER.fullmatch(data) else (self._stand_in(text, "redact"), [_TOO_MANY_RULE])
            if not spans:
                return (data.decode(), list(names)) if names else (text, [])
            self._secrets_left -= len(spans)
            names |= dict.fromkeys(rule.name for _, _, rule in spans)
            data = self._without(data, spans)
        # What goes may bare what touched it, rarely more than once; a text made to do so again and again goes whole.
        return self._stand_in(text, "redact"), list(names)

    def _without(self, data: bytes, spans: list[tuple[int, int, Rule]]) -> bytes:
        pieces = []
        done = 0
        for start, end, rule in spans:
            pieces += [data[done:start], self._stand_in(data[start:end].decode(), rule.mode).encode()]
            done = end
        return b"".join([*pieces, data[done:]])

    @staticmethod
    def _spans(data: bytes, rules: tuple[Rule, ...]) -> list[tuple[int, int, Rule]] | None:
        """
        What is to be replaced, in order, apart from each other and from what already stands for a secret.

        None where a rule finds more than `SECRETS_MAX` places, which are not all looked for.
        """
        found = []
        for rule in rules:
            places = list(islice(rule.rule.spans(data), SECRETS_MAX + 1))
            if len(places) > SECRETS_MAX:
                return None
            found += [(start, end, rule) for start, end in places if start < end]
        return list(_without_markers(data, _merged(found))) if found else []

    def _note(self, path: _Path, rule: str) -> None:
        if self._embedded_in:
            path = self._embedded_in[0]
        tokens = []
        step: _Path | None = path
        while step is not None:
            step, token = step
            tokens.append(token)
        self._found[pointer(reversed(tokens)), rule] = None


def _merged(found: list[tuple[int, int, Rule]]) -> Iterator[tuple[int, int, Rule]]:
    """Overlapping spans as one, under the rule with the strongest mode."""
    found.sort(key=lambda span: (span[0], -span[1]))
    start, end, rule = found[0]
    for begin, stop, other in found[1:]:
        if begin >= end:
            yield start, end, rule
            start, end, rule = begin, stop, other
            continue
        end = max(end, stop)
        if MODES[other.mode] > MODES[rule.mode]:
            rule = other
    yield start, end, rule


def _without_markers(data: bytes, spans: Iterable[tuple[int, int, Rule]]) -> Iterator[tuple[int, int, Rule]]:
    for start, end, rule in spans:
        begin = start
        near = (max(0, start - _MARKER_CHARS_MAX), min(len(data), end + _MARKER_CHARS_MAX))
        for marker in _MARKER.finditer(data, *near):
            if marker.end() <= begin or marker.start() >= end:
                continue
            if data[begin : marker.start()].strip():
                yield begin, marker.start(), rule
            begin = marker.end()
        if data[begin:end].strip():
            yield begin, end, rule
