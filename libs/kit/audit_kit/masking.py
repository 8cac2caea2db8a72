"""
Masking: what an entry says in confidence is taken out of it before it leaves ingest.

By key (`masking_keys`), by looks (`masking_patterns`, `masking_cards`) and by name in running text
(`masking_assignments`), in every string of an entry. One pass of all guards over the entry's JSON clears most entries;
only where one of them matches are the rules that it stands for run, string by string (`masking_walk`).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson

from audit_contracts.errors import InvalidEntry, Violation
from audit_contracts.event import EntryIn
from audit_contracts.masking_policy import HASH_MARKER, MaskingPolicy, Mode
from audit_kit.masking_rules import Tripped, rules_of
from audit_kit.masking_walk import MaskedPath, Walk

CORE_FIELDS: Final = frozenset(
    {"action", "resource_type", "source", "request_id", "correlation_id", "trace_id", "producer_id"}
)
"""
Fields of slot 0: what would have to be masked there is refused, by the default and the named rules alone. A tenant's
own keys and patterns have no say there, or its admin could choose which actions are never recorded.
"""
OWNER_FIELDS: Final = frozenset({"user_id", "subject_id", "submitted_by"})
"""Fields that say whose an entry is: hashed as a whole whatever a rule's mode, so that owners stay apart."""
_NOT_TEXT: Final = frozenset(
    {"id", "tenant_id", "timestamp", "received_at", "severity", "outcome", "ip_address", "producer_seq"}
)

_REDACTED: Final = "[REDACTED]"
_HASH_DOMAIN: Final = b"auditlog/mask/1\n"
_LAST4_CHARS_MIN: Final = 8


class Masker:
    """The masking of one tenant."""

    def __init__(self, policy: MaskingPolicy, hash_key: bytes) -> None:
        """
        Args:
            policy: what the tenant adds to the default.
            hash_key: the tenant's own; values that were hashed are found again under the same key only.
        """
        self._rules = rules_of(policy)
        self._core_rules = rules_of(MaskingPolicy(rules=policy.rules)) if policy.keys or policy.patterns else None
        self._hash_key = hash_key

    def mask(self, entry: EntryIn) -> tuple[EntryIn, list[MaskedPath]]:
        """
        The entry as it may be kept, and what was masked in it. Masking it again changes nothing.

        The entry is left as it is; where nothing had to be masked, it is the one returned.

        Raises:
            InvalidEntry: a field of slot 0 holds what would have to be masked.
        """
        tripped = self._rules.tripped(msgspec.json.encode(entry))
        if not tripped:
            return entry, []
        fields = {name: value for name in entry.__struct_fields__ if (value := getattr(entry, name)) is not None}
        masked, paths = self._masked(fields, tripped)
        return (
            (msgspec.structs.replace(entry, **{name: masked[name] for name in masked}), paths)
            if masked
            else (entry, [])
        )

    def mask_fields(self, fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[MaskedPath]]:
        """
        The same for JSON values by the names of an entry's fields; unknown names are masked like `details`.

        Args:
            fields: JSON values, nested at most 64 deep.
        """
        tripped = self._rules.tripped(orjson.dumps(fields, default=str))
        if not tripped:
            return dict(fields), []
        masked, paths = self._masked(fields, tripped)
        return {**fields, **masked}, paths

    def as_kept(self, field: str, value: str) -> str:
        """What `mask` keeps of a field whose value is `value`: to be looked for in a filter on that field."""
        if field in CORE_FIELDS:
            return value
        kept: str = self.mask_fields({field: value})[0][field]
        return kept

    def hash_value(self, value: str) -> str:
        """What takes the place of `value` where it is masked by hash."""
        digest = hmac.digest(self._hash_key, _HASH_DOMAIN + value.encode(), "sha256")
        return f"{HASH_MARKER}{digest[:16].hex()}]"

    def _masked(self, fields: Mapping[str, Any], tripped: Tripped) -> tuple[dict[str, Any], list[MaskedPath]]:
        """The fields that change, as they are to be kept."""
        walk = Walk(tripped, self.stand_in)
        core_rules = tripped.rules if self._core_rules is None else self._core_rules.every
        refused = []
        changed = {}
        for name, value in fields.items():
            if name in _NOT_TEXT:
                continue
            if name in CORE_FIELDS:
                refused += [_refusal(name, rule) for rule in walk.rules_in(value, core_rules)]
            elif name in OWNER_FIELDS:
                found = walk.rules_in(value, tripped.rules)
                if found:
                    changed[name] = self.hash_value(value)
                    walk.note(name, found)
            elif (kept := walk.value(value, (None, name))) is not value:
                changed[name] = kept
        if refused:
            raise InvalidEntry(refused)
        return changed, walk.paths()

    def stand_in(self, secret: str, mode: Mode) -> str:
        """What takes the place of `secret` in `mode`; of a short one no part is kept."""
        if mode == "hash":
            return self.hash_value(secret)
        if mode == "last4":
            shown = [char for char in secret if char.isascii() and char.isalnum()]
            if len(shown) >= _LAST4_CHARS_MIN:
                return f"[LAST4:{''.join(shown[-4:])}]"
        return _REDACTED


def _refusal(field: str, rule: str) -> Violation:
    return Violation(
        f"/{field}", f"holds what would have to be masked ({rule}), and is kept in clear", "secret_in_core"
    )
