"""The part `projector-ledger`: a worker and no routes."""

from __future__ import annotations

from audit_contracts.ports.clock import Clock
from audit_contracts.ports.event_queue import EventQueue
from audit_contracts.ports.ledger import Ledger
from audit_kit.keyring import Keyring
from audit_kit.part import Part, ReadyCheck, Worker
from audit_projector.ledger import LedgerProjector


def projector_ledger(*, queue: EventQueue, ledger: Ledger, keyring: Keyring, clock: Clock) -> Part:
    """Takes batches off the queue and writes them to the ledger."""
    projector = LedgerProjector(queue=queue, ledger=ledger, keyring=keyring, clock=clock)
    return Part(
        name="projector-ledger",
        workers=[Worker(name="projector-ledger", run=projector.run)],
        ready_checks=[ReadyCheck(name="ledger", check=ledger.check)],
    )
