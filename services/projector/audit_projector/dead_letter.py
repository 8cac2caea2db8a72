"""What cannot be written: found by bisection, kept with its reason, ready to be sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from audit_contracts.codec import read_head
from audit_contracts.errors import SealBroken
from audit_contracts.ids import NAMESPACE_REPLAY, named, replay_id
from audit_contracts.ports.event_queue import Delivery
from audit_contracts.ports.ledger import DeadLetter, Ledger, PreparedBatch, Unwritable
from audit_projector.preparing import OpenedBatch, Preparer

REASON_SEAL: Final = "seal_broken"
REASON_UNKNOWN: Final = "unknown_tenant_or_key"
REASON_UNWRITABLE: Final = "unwritable"

_BUSY_PAUSE_S: Final = 0.01


async def isolate(
    ledger: Ledger, preparer: Preparer, opened: OpenedBatch, batch: PreparedBatch
) -> tuple[PreparedBatch, list[DeadLetter]]:
    """
    Split what the database refuses off a batch that it refused.

    Returns:
        The batch without its bad events, and a dead letter for each of those.

    Raises:
        LedgerUnavailable, AppendUnknown: nothing is decided; try again.
    """
    bad = await _bad_ordinals(ledger, batch, range(len(batch.events)))
    letters = []
    for ordinal, detail in bad.items():
        replay_batch_id = replay_id(batch.batch_id, ordinal)
        message = await preparer.seal_for_replay(
            batch.tenant, replay_batch_id, opened.head.made_at_us, opened.events[ordinal]
        )
        letters.append(
            DeadLetter(
                tenant=batch.tenant,
                batch_id=batch.batch_id,
                ordinal=ordinal,
                replay_batch_id=replay_batch_id,
                reason=REASON_UNWRITABLE,
                detail=detail,
                message=message,
            )
        )
    good = [event for ordinal, event in enumerate(batch.events) if ordinal not in bad]
    return msgspec.structs.replace(batch, events=good), letters


def whole(delivery: Delivery, reason: str, detail: str) -> DeadLetter:
    """A dead letter of a message that can't be opened. Sent again, it is the same message as it came."""
    try:
        batch_id = read_head(delivery.body).batch_id
    except SealBroken:
        batch_id = _named_by_content(delivery.body)
    return DeadLetter(
        tenant=delivery.tenant,
        batch_id=batch_id,
        ordinal=None,
        replay_batch_id=batch_id,
        reason=reason,
        detail=detail,
        message=delivery.body,
    )


def _named_by_content(body: bytes) -> UUID:
    return named(NAMESPACE_REPLAY, body)


async def _bad_ordinals(ledger: Ledger, batch: PreparedBatch, ordinals: Sequence[int]) -> dict[int, str]:
    refusal = await _refusal(ledger, msgspec.structs.replace(batch, events=[batch.events[i] for i in ordinals]))
    if refusal is None:
        return {}
    if len(ordinals) == 1:
        return {ordinals[0]: refusal}
    middle = len(ordinals) // 2
    return {
        **await _bad_ordinals(ledger, batch, ordinals[:middle]),
        **await _bad_ordinals(ledger, batch, ordinals[middle:]),
    }


async def _refusal(ledger: Ledger, batch: PreparedBatch) -> str | None:
    """Why the database refuses these events, or None where it takes them. Waits for a head that another holds."""
    while True:
        try:
            result = await ledger.append([batch], dry_run=True)
        except Unwritable as exc:
            return str(exc)
        if not result.busy:
            return None
        await asyncio.sleep(_BUSY_PAUSE_S)
