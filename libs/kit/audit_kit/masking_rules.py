"""The rules of a masking policy, compiled, and the one pass of their guards over an entry."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple, cast

import re2

from audit_contracts.masking_policy import (
    DEFAULT_MODES,
    OPTIONAL_MODES,
    MaskingPolicy,
    Mode,
    PatternRule,
    pattern_options,
)
from audit_kit.masking_assignments import Assignments
from audit_kit.masking_cards import CARD_RULE
from audit_kit.masking_keys import SecretKeys
from audit_kit.masking_patterns import OPTIONAL_RULES, VALUE_RULES, ValueRule

# JSON inside a string may write any character as an escape, which hides it from every guard.
_ESCAPED_TWICE: Final = r"\\\\(?:u[0-9A-Fa-f]{4}|/)"
# Full-width letters, of which a key may be written; no rule but the keys knows them.
_FULL_WIDTH: Final = r"[\x{FF21}-\x{FF5A}]"


class Rule(NamedTuple):
    """A value rule in the mode that a tenant has it."""

    name: str
    mode: Mode
    rule: ValueRule


class Tripped(NamedTuple):
    """
    What an entry may hold: the rules to run over its strings, and the keys to compare its keys with.

    `every` are all rules, for strings in which something was masked: what touched it may stand free now.
    """

    rules: tuple[Rule, ...]
    every: tuple[Rule, ...]
    keys: SecretKeys


class Rules:
    """The default and a policy's additions, compiled. Holds nothing of a tenant's but the policy."""

    def __init__(self, policy: MaskingPolicy) -> None:
        self.keys = SecretKeys({key.key: key.mode for key in policy.keys})
        chosen = {choice.rule: choice.mode for choice in policy.rules}
        guarded = [Assignments(self.keys).rule, *VALUE_RULES, CARD_RULE]
        guarded += [rule for rule in OPTIONAL_RULES if rule.name in chosen]
        modes = {**DEFAULT_MODES, **OPTIONAL_MODES, **chosen}
        self._guarded = [Rule(rule.name, modes[rule.name], rule) for rule in guarded]
        # A tenant's pattern may be anchored, which no guard over a whole entry can honour: it is always run.
        self._always = tuple(Rule(pattern.name, pattern.mode, _pattern(pattern)) for pattern in policy.patterns)
        self.every = (*self._guarded, *self._always)
        self._escapes_index = len(guarded) + 1
        self._nothing = Tripped(self._always, self.every, self.keys) if self._always else None
        options = re2.Options()
        options.max_mem = 64 << 20
        self._guards = re2.Set.SearchSet(options)
        for guard in [*(rule.guard for rule in guarded), self.keys.guard(), _ESCAPED_TWICE, _FULL_WIDTH]:
            self._guards.Add(guard)
        self._guards.Compile()

    def tripped(self, blob: bytes) -> Tripped | None:
        """The rules that may find something in the entry whose compact JSON is `blob`; None if none can."""
        # The stubs know of no list.
        hits = cast("list[int] | None", self._guards.Match(blob))
        if not hits:
            return self._nothing
        if self._escapes_index in hits:
            return Tripped(self.every, self.every, self.keys)
        rules = tuple(self._guarded[index] for index in sorted(hits) if index < len(self._guarded))
        return Tripped(rules + self._always, self.every, self.keys)


@lru_cache(maxsize=256)
def rules_of(policy: MaskingPolicy) -> Rules:
    """The rules of a policy; tenants with the same one share them."""
    return Rules(policy)


def _pattern(rule: PatternRule) -> ValueRule:
    compiled = re2.compile(rule.pattern.encode(), pattern_options())
    return ValueRule(rule.name, "", lambda text: (match.span() for match in compiled.finditer(text)))
