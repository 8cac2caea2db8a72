"""
What a tenant may add to the masking that every entry goes through. It can extend the default and never weaken it.

The default itself, what is a secret and how it is found, lives in the kit; here stand the names and the modes that a
policy refers to, so that whoever stores a policy can check it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec
import re2

from audit_contracts.errors import InvalidEntry, Violation
from audit_contracts.json_pointer import pointer

Mode = Literal["last4", "hash", "redact"]
"""
What takes a secret's place: its last four characters, a keyed hash that is the same for the same value within one
tenant, or nothing but the word that something stood there. Each is stronger than the one before.
"""

HASH_MARKER: Final = "[HASH:"
"""How what stands for a hashed value begins. Nobody may be called so, or it would read what a masked owner wrote."""

MODES: Final[dict[Mode, int]] = {"last4": 1, "hash": 2, "redact": 3}
"""The modes and their strength."""

DEFAULT_MODES: Final[dict[str, Mode]] = {
    "key": "redact",
    "assignment": "redact",
    "private_key": "redact",
    "jwt": "redact",
    "credentials": "redact",
    "vendor_token": "redact",
    "url_password": "redact",
    "us_ssn": "redact",
    "card_number": "last4",
}
"""The rules that are always on, strongest claim first, and the weakest mode that each may have."""

OPTIONAL_MODES: Final[dict[str, Mode]] = {"email": "hash", "phone": "hash", "iban": "last4"}
"""Rules that a tenant may switch on, in whatever mode it likes, and the modes they usually have."""

EXTRA_KEYS_MAX: Final = 100
KEY_CHARS_MAX: Final = 64
PATTERNS_MAX: Final = 20
PATTERN_CHARS_MAX: Final = 256
PATTERN_MEMORY_BYTES_MAX: Final = 256 * 1024


class KeyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One more key whose values are masked, as words in any case style: `badge number` is also `badgeNumber`."""

    key: str
    mode: Mode = "redact"


class RuleChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An optional rule switched on, or a rule of the default made stronger."""

    rule: str
    mode: Mode


class PatternRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What matches this RE2 expression in any string is masked. `name` is what the entry will say."""

    name: str
    pattern: str
    mode: Mode = "redact"


class MaskingPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tenant's additions to the default. The empty policy is the default alone."""

    keys: tuple[KeyRule, ...] = ()
    rules: tuple[RuleChoice, ...] = ()
    patterns: tuple[PatternRule, ...] = ()

    @classmethod
    def parse(cls, value: Any) -> MaskingPolicy:
        """
        The policy that the JSON value `value` stands for.

        Raises:
            InvalidEntry: not a policy, over a bound, or weaker than the default; it lists every fault with its pointer.
        """
        try:
            policy = msgspec.convert(value, cls)
        except msgspec.ValidationError as exc:
            raise InvalidEntry([Violation("", str(exc), "masking_policy")]) from None
        faults = list(policy._faults())
        if faults:
            raise InvalidEntry(faults)
        return policy

    def _faults(self) -> Iterator[Violation]:
        for name, count, most in (
            ("keys", len(self.keys), EXTRA_KEYS_MAX),
            ("rules", len(self.rules), len(DEFAULT_MODES) + len(OPTIONAL_MODES)),
            ("patterns", len(self.patterns), PATTERNS_MAX),
        ):
            if count > most:
                yield _fault((name,), f"at most {most} of them")
        for index, key in enumerate(self.keys):
            if len(key.key) > KEY_CHARS_MAX or not any(char.isascii() and char.isalpha() for char in key.key):
                yield _fault(("keys", index, "key"), f"a key has ASCII letters and at most {KEY_CHARS_MAX} characters")
        for index, choice in enumerate(self.rules):
            yield from _rule_faults(index, choice)
        if len({choice.rule for choice in self.rules}) < len(self.rules):
            yield _fault(("rules",), "a rule is named twice")
        for index, pattern in enumerate(self.patterns):
            yield from _pattern_faults(index, pattern)


def pattern_options() -> re2.Options:
    """How a tenant's pattern is compiled, here and where it is used: bounded in memory, silent."""
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY_BYTES_MAX
    options.log_errors = False
    return options


def _rule_faults(index: int, choice: RuleChoice) -> Iterator[Violation]:
    least = DEFAULT_MODES.get(choice.rule)
    if least is None and choice.rule not in OPTIONAL_MODES:
        yield _fault(("rules", index, "rule"), "there is no rule of this name")
    elif least is not None and MODES[choice.mode] < MODES[least]:
        yield _fault(("rules", index, "mode"), f"weaker than the default, which is {least}")


def _pattern_faults(index: int, rule: PatternRule) -> Iterator[Violation]:
    name_ok = 0 < len(rule.name) <= KEY_CHARS_MAX and rule.name.replace("_", "a").isalnum() and rule.name.isascii()
    if not name_ok or rule.name in DEFAULT_MODES or rule.name in OPTIONAL_MODES:
        yield _fault(("patterns", index, "name"), "a name has letters, digits and underscores, and is not a rule's")
    where = ("patterns", index, "pattern")
    if len(rule.pattern) > PATTERN_CHARS_MAX:
        yield _fault(where, f"at most {PATTERN_CHARS_MAX} characters")
        return
    try:
        compiled = re2.compile(rule.pattern.encode(), pattern_options())
    except (re2.error, UnicodeEncodeError):
        yield _fault(where, "not an RE2 expression, or one that needs too much memory")
        return
    if compiled.search(b"") is not None:
        yield _fault(where, "it matches the empty string")


def _fault(tokens: tuple[str | int, ...], detail: str) -> Violation:
    return Violation(pointer(tokens), detail, "masking_policy")
