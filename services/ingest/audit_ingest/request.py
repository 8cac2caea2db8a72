"""From the bytes of one entry to its event: read strictly, checked, given an id, masked."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from socket import inet_aton, inet_ntoa
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from audit_contracts import strict_json
from audit_contracts.entry_schema import AliasConflict, EntryModel, resolve_aliases
from audit_contracts.errors import Forbidden, InvalidEntry, TenantMismatch, Violation
from audit_contracts.event import (
    ACCESS_SOURCE,
    ALIASES,
    CLOCK_SKEW_FLAGGED,
    CLOCK_SKEW_MAX,
    FLAG_CLOCK_SKEW,
    FLAG_LATE,
    LATE_FLAGGED,
    METADATA_KEYS_MAX,
    RESERVED_ACTION_PREFIX,
    EntryIn,
)
from audit_contracts.json_pointer import pointer
from audit_contracts.principal import Principal
from audit_contracts.times import to_us
from audit_ingest.event_ids import EventIds
from audit_kit.event_making import EventMaker, MadeEvent

_MICROSECOND: Final = timedelta(microseconds=1)
_CLOCK_SKEW_MAX_US: Final = CLOCK_SKEW_MAX // _MICROSECOND
_CLOCK_SKEW_FLAGGED_US: Final = CLOCK_SKEW_FLAGGED // _MICROSECOND
_LATE_FLAGGED_US: Final = LATE_FLAGGED // _MICROSECOND

_ADDRESSES_CACHED: Final = 8_192


class EntryReader:
    """Reads the entries of one request: of one principal, received at one moment. `trace_id` is for those without."""

    def __init__(
        self,
        *,
        principal: Principal,
        maker: EventMaker,
        ids: EventIds,
        received_at_us: int,
        trace_id: str | None,
        entry_bytes_max: int,
        depth_max: int,
    ) -> None:
        self._tenant = principal.tenant
        self._own_entries_of = principal.own_entries_of
        self._maker = maker
        self._ids = ids
        self._received_at_us = received_at_us
        self._trace_id = trace_id
        self._entry_bytes_max = entry_bytes_max
        self._depth_max = depth_max

    def read(self, raw: bytes, ordinal: int) -> MadeEvent:
        """
        The event of one entry.

        Args:
            raw: the entry's JSON.
            ordinal: where it stood in the request.

        Raises:
            InvalidEntry: it breaks its contract; every reason is listed, with pointers into the entry as it was sent.
            TenantMismatch: it names another tenant than the token.
            Forbidden: the principal may write only as itself.
        """
        if len(raw) > self._entry_bytes_max:
            detail = f"the entry is larger than {self._entry_bytes_max} bytes"
            raise InvalidEntry([Violation("", detail, "too_large")])
        sent = strict_json.loads(raw, depth_max=self._depth_max)
        if type(sent) is not dict:
            raise InvalidEntry([Violation("", "an entry is a JSON object", "object")])
        try:
            document = resolve_aliases(sent)
        except AliasConflict as exc:
            raise InvalidEntry([Violation(pointer([exc.alias]), str(exc), "alias_conflict")]) from None
        tenant = document.get("tenant_id")
        if tenant is not None and tenant != self._tenant and type(tenant) is str:
            raise TenantMismatch("an entry's tenant_id is not the tenant of the token")
        try:
            return self._event(document, ordinal)
        except InvalidEntry as exc:
            if document is sent:
                raise
            raise InvalidEntry(_as_sent(exc.violations, sent)) from None

    def _event(self, document: dict[str, Any], ordinal: int) -> MadeEvent:
        try:
            entry = msgspec.convert(document, EntryIn)
        except msgspec.ValidationError:
            raise InvalidEntry(_violations(document)) from None
        if self._own_entries_of is not None and entry.user_id != self._own_entries_of:
            raise Forbidden("the role user writes only entries whose user_id is its own")
        timestamp_us, flags, found = self._checked(entry)
        if found:
            raise InvalidEntry(found)
        event_id, fingerprint = self._ids.of(document, entry, ordinal)
        return self._maker.make(
            entry,
            event_id=event_id,
            timestamp_us=timestamp_us,
            received_at_us=self._received_at_us,
            flags=flags,
            trace_id=self._trace_id,
            fingerprint=fingerprint,
        )

    def _checked(self, entry: EntryIn) -> tuple[int, list[str], list[Violation]]:
        """What a type can't say: the timestamp, its flags, and the reasons to refuse. Brings the address into form."""
        found = []
        # In any case of letters: what looks like the product's own record must be one.
        if entry.action.lower().startswith(RESERVED_ACTION_PREFIX):
            found.append(
                Violation("/action", f"names that begin with {RESERVED_ACTION_PREFIX} are reserved", "reserved")
            )
        if entry.source is not None and entry.source.lower() == ACCESS_SOURCE:
            found.append(Violation("/source", f"{ACCESS_SOURCE} is reserved", "reserved"))
        if entry.metadata is not None and len(entry.metadata) > METADATA_KEYS_MAX:
            found.append(Violation("/metadata", f"more than {METADATA_KEYS_MAX} keys", "too_many"))
        if entry.ip_address is not None:
            address = _normal_address(entry.ip_address)
            if address is None:
                found.append(Violation("/ip_address", "not an IPv4 or IPv6 address without a zone id", "ip_address"))
            entry.ip_address = address
        if entry.timestamp is None:
            return self._received_at_us, [], found
        timestamp_us = to_us(entry.timestamp)
        ahead_us = timestamp_us - self._received_at_us
        if timestamp_us < 0:
            found.append(Violation("/timestamp", "before 1970", "too_early"))
        elif ahead_us > _CLOCK_SKEW_MAX_US:
            found.append(Violation("/timestamp", "more than 24 hours ahead of this server's clock", "too_far_ahead"))
        elif ahead_us > _CLOCK_SKEW_FLAGGED_US:
            return timestamp_us, [FLAG_CLOCK_SKEW], found
        elif ahead_us < -_LATE_FLAGGED_US:
            return timestamp_us, [FLAG_LATE], found
        return timestamp_us, [], found


def _violations(document: dict[str, Any]) -> list[Violation]:
    """Why msgspec refused a document, told by its published twin: every reason, and no value."""
    try:
        EntryModel.model_validate(document)
    except ValidationError as exc:
        return [
            Violation(pointer(error["loc"]), error["msg"], error["type"])
            for error in exc.errors(include_url=False, include_context=False, include_input=False)
        ]
    return [Violation("", "the entry breaks its contract", "invalid")]


def _as_sent(violations: Sequence[Violation], sent: dict[str, Any]) -> list[Violation]:
    """The same faults, told of the aliases under which the fields came."""
    aliases = {f"/{name}": f"/{alias}" for alias, name in ALIASES.items() if alias in sent}
    return [msgspec.structs.replace(found, pointer=aliases.get(found.pointer, found.pointer)) for found in violations]


@lru_cache(maxsize=_ADDRESSES_CACHED)
def _normal_address(text: str) -> str | None:
    """The address as it is kept: IPv4 where it is one, mapped into IPv6 or not; None if it is no address."""
    if _is_plain_ipv4(text):
        return text
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    return str(address)


def _is_plain_ipv4(text: str) -> bool:
    """Whether `text` is an IPv4 address in normal form: told in an eighth of the time that reading any takes."""
    try:
        return inet_ntoa(inet_aton(text)) == text
    except (OSError, ValueError):
        return False
