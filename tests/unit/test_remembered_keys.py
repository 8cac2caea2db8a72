"""Idempotency-Keys that this process remembers."""

from __future__ import annotations

import pytest

from audit_contracts.errors import IdempotencyConflict
from audit_contracts.principal import Principal, Role, permissions_of
from audit_ingest.event_ids import RequestKey
from audit_ingest.remembered_keys import REMEMBERED_FOR_S, RememberedKeys
from tests.kit_world import ACME, ManualClock

ANN = Principal(
    tenant=ACME, issuer="iss", subject="ann", role=Role.PRODUCER, permissions=permissions_of(ACME, Role.PRODUCER)
)
ONE, OTHER = RequestKey("k", b"one"), RequestKey("k", b"other")


def test_a_key_is_remembered_for_a_day() -> None:
    clock = ManualClock()
    keys = RememberedKeys(clock=clock)
    keys.use(ANN, ONE)
    clock.advance(REMEMBERED_FOR_S - 1)
    keys.use(ANN, ONE)
    with pytest.raises(IdempotencyConflict):
        keys.use(ANN, OTHER)
    clock.advance(1)
    keys.use(ANN, OTHER)


def test_the_key_of_longest_ago_is_forgotten_past_the_bound() -> None:
    keys = RememberedKeys(clock=ManualClock(), keys_max=2)
    for name in ("k", "b", "c"):
        keys.use(ANN, RequestKey(name, b"one"))
    keys.use(ANN, OTHER)
    with pytest.raises(IdempotencyConflict):
        keys.use(ANN, RequestKey("c", b"other"))
