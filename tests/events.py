"""Events for tests: real shapes, one field changed at a time."""

from __future__ import annotations

import os
import uuid
from typing import Any

import msgspec

from audit_contracts.event import Content, Event
from audit_contracts.ids import uuid7
from audit_contracts.ports.ledger import PreparedBatch, PreparedEvent, WrappedOwnerKey
from audit_contracts.principal import TenantId
from audit_contracts.record import OwnerKey, Sealer

NOW_US = 1_790_000_000_000_000
"""2026-09-21T13:33:20Z, when events of tests are received unless they say otherwise."""

OWNER_KEY = OwnerKey(uuid.UUID(int=7), bytes(range(32)))
"""The one key of tests that seal by hand."""

_sealer = Sealer()


def an_event(**fields: Any) -> Event:
    """An event that differs from the ordinary one in `fields`; its id is one made by the server."""
    ordinary: dict[str, Any] = {
        "id": uuid7(NOW_US),
        "action": "user.login",
        "severity": "INFO",
        "outcome": "success",
        "resource_type": "session",
        "resource_id": "s-1",
        "timestamp_us": NOW_US - 1_000,
        "received_at_us": NOW_US,
        "user_id": "ada",
        "submitted_by": "https://issuer.example|producer-1",
        "content": msgspec.json.encode(Content(metadata={"browser": "firefox"}, details="signed in")),
    }
    return Event(**(ordinary | fields))


def a_batch(
    tenant: TenantId,
    log_id: bytes,
    *events: Event,
    batch_id: uuid.UUID | None = None,
    redelivered_late: bool = False,
) -> PreparedBatch:
    """`events` sealed for the log under `OWNER_KEY`."""
    prepared = [PreparedEvent(event, _sealer.seal(log_id, event, OWNER_KEY)) for event in events]
    return PreparedBatch(tenant, log_id, batch_id or uuid.uuid4(), prepared, redelivered_late=redelivered_late)


def an_owner_key(tag: bytes | None = None) -> WrappedOwnerKey:
    """A wrapped owner key that nothing can open, for what only stores it."""
    return WrappedOwnerKey(uuid.uuid4(), tag or os.urandom(16), uuid.UUID(int=1), os.urandom(60))
