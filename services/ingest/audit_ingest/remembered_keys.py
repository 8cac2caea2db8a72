"""Idempotency-Keys seen by this process, and with which body."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import Final

from audit_contracts.errors import IdempotencyConflict
from audit_contracts.ports.clock import Clock
from audit_contracts.principal import Principal
from audit_ingest.event_ids import RequestKey

REMEMBERED_FOR_S: Final = 24 * 3600.0
KEYS_MAX: Final = 100_000
"""At about 300 bytes each. A key that is forgotten early is no longer told from its misuse; no event is lost by it."""


class RememberedKeys:
    """
    Tells a key that comes again with another body.

    A repeat of the same body needs no memory: its events get the same ids, whatever process it reaches.
    """

    def __init__(self, *, clock: Clock, keys_max: int = KEYS_MAX) -> None:
        self._clock = clock
        self._keys_max = keys_max
        # In the order in which they will be forgotten.
        self._seen: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def use(self, principal: Principal, request: RequestKey) -> None:
        """
        Remember the key for 24 hours.

        Raises:
            IdempotencyConflict: the principal used it for another body before.
        """
        now_s = self._clock.monotonic_s()
        while self._seen and next(iter(self._seen.values()))[1] <= now_s:
            self._seen.popitem(last=False)
        name = repr((principal.tenant, principal.issuer, principal.subject, request.key))
        at = sha256(name.encode()).digest()
        seen = self._seen.get(at)
        if seen is None:
            self._seen[at] = (request.body_digest, now_s + REMEMBERED_FOR_S)
            if len(self._seen) > self._keys_max:
                self._seen.popitem(last=False)
        elif seen[0] != request.body_digest:
            raise IdempotencyConflict("this Idempotency-Key was used with another body; take a new one")
