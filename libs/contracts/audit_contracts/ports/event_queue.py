"""The event queue: sealed batches on their way from ingest to the ledger, at least once, in no order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from audit_contracts.errors import NotDone, OutcomeUnknown
from audit_contracts.principal import TenantId


class Message(msgspec.Struct, frozen=True):
    """One sealed batch. `batch_id` names it for logs and fair queues; the truth is inside `body`."""

    tenant: TenantId
    batch_id: UUID
    body: bytes


class Delivery(msgspec.Struct, frozen=True):
    """A message in hand until its visibility runs out. `receipt` is the backend's handle of this one delivery."""

    tenant: TenantId
    body: bytes
    receipt: str
    receives: int


class QueueDepth(msgspec.Struct, frozen=True):
    """What lies in the queue, in hand or not; SQS and Kafka answer approximately."""

    messages: int
    bytes: int
    oldest_age_s: float


class EventQueue(Protocol):
    """A durable queue. One instance may be used by many tasks at once."""

    @property
    def message_bytes_max(self) -> int:
        """The longest body that `send` takes."""

    async def send(self, messages: Sequence[Message]) -> Sequence[NotDone | OutcomeUnknown | None]:
        """
        Put messages into the queue, each on its own.

        Args:
            messages: 1 to 1,000, of any tenants, each body at most `message_bytes_max`.

        Returns:
            For each message in the order given: None where it is durable (survives loss of process and power);
            QueueFull or QueueUnavailable where it is not in the queue; SendUnknown where it may be. Sending the same
            message again is always safe, the ledger drops repeats.
        """

    async def receive(self, *, messages_max: int, wait_s: float, visibility_s: float) -> Sequence[Delivery]:
        """
        Take up to `messages_max` messages, hidden from others for `visibility_s`; none after `wait_s` of waiting.

        Tenants are served in turn where the backend can: a tenant with a million messages delays no other.

        Raises:
            QueueUnavailable: nothing is in hand.
        """

    async def extend(self, deliveries: Sequence[Delivery], *, visibility_s: float) -> None:
        """Hide deliveries for `visibility_s` from now; those no longer in hand are passed over."""

    async def release(self, deliveries: Sequence[Delivery], *, delay_s: float) -> None:
        """Give deliveries back, visible after `delay_s`; those no longer in hand are passed over."""

    async def delete(self, deliveries: Sequence[Delivery]) -> None:
        """
        Remove what is done with. A delivery that is no longer in hand may stay; it comes again.

        Raises:
            QueueUnavailable: some may come again.
        """

    async def depth(self) -> QueueDepth:
        """
        How much lies in the queue.

        Raises:
            QueueUnavailable: it can't be asked.
        """

    async def close(self) -> None:
        """Let go of connections. What is in hand comes back when its visibility runs out."""
