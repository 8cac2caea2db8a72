"""Queue and ledger held against a model, through whatever sequence of calls Hypothesis finds."""

from __future__ import annotations

import asyncio
import uuid
from abc import abstractmethod
from collections import Counter
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule, run_state_machine_as_test

from audit_contracts.ports.event_queue import Delivery, Message
from audit_contracts.ports.ledger import PreparedBatch
from audit_contracts.principal import TenantId
from tests.backends import EVENT_QUEUES, LEDGERS, OpenLedger, OpenQueue
from tests.events import a_batch, an_event
from tests.services import Database

TENANTS = ("acme", "globex")
RUNS = settings(max_examples=25, stateful_step_count=25)

Result = TypeVar("Result")


class _Machine(RuleBasedStateMachine):
    """A machine whose rules talk to asyncio, and to one backend's port."""

    @staticmethod
    @abstractmethod
    def opening() -> AbstractAsyncContextManager[Any]:
        """Open the port."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()

    def run(self, call: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()


class QueueMachine(_Machine):
    in_hand = Bundle("in_hand")

    @initialize()
    def open(self) -> None:
        self.queue: OpenQueue = self.run(self.stack.enter_async_context(self.opening()))
        self.kept: Counter[bytes] = Counter()
        self.hidden: dict[bytes, Delivery] = {}
        """Bodies in hand for a long time, with the delivery that holds them."""

    @rule(tenants=st.lists(st.sampled_from(TENANTS), min_size=1, max_size=5))
    def send(self, tenants: list[str]) -> None:
        messages = [Message(TenantId(t), uuid.uuid4(), uuid.uuid4().bytes) for t in tenants]
        assert self.run(self.queue.sender.send(messages)) == [None] * len(messages)
        self.kept.update(message.body for message in messages)

    @rule(target=in_hand, most=st.integers(1, 6), hide=st.booleans())
    def receive(self, most: int, hide: bool) -> Any:
        visible = len(self.kept) - len(self.hidden)
        deliveries = self.run(self.queue.receiver.receive(messages_max=most, wait_s=0, visibility_s=600 if hide else 0))
        assert len(deliveries) == min(most, visible)
        for delivery in deliveries:
            assert self.kept[delivery.body] == 1
            assert delivery.body not in self.hidden
            if hide:
                self.hidden[delivery.body] = delivery
        return multiple(*deliveries)

    @rule(delivery=in_hand)
    def delete(self, delivery: Delivery) -> None:
        before = self.run(self.queue.receiver.depth()).messages
        self.run(self.queue.receiver.delete([delivery]))
        gone = before - self.run(self.queue.receiver.depth()).messages
        if self.hidden.get(delivery.body) == delivery:
            assert gone == 1
        assert gone in (0, 1)
        if gone:
            del self.kept[delivery.body]
            self.hidden.pop(delivery.body, None)

    @rule(delivery=in_hand)
    def release(self, delivery: Delivery) -> None:
        self.run(self.queue.receiver.release([delivery], delay_s=0))
        if self.hidden.get(delivery.body) == delivery:
            del self.hidden[delivery.body]

    def teardown(self) -> None:
        self.run(self.queue.receiver.release(list(self.hidden.values()), delay_s=0))
        left: Counter[bytes] = Counter()
        while deliveries := self.run(self.queue.receiver.receive(messages_max=100, wait_s=0, visibility_s=600)):
            left.update(delivery.body for delivery in deliveries)
            self.run(self.queue.receiver.delete(deliveries))
        assert left == self.kept
        super().teardown()


@pytest.mark.parametrize("backend", EVENT_QUEUES)
def test_a_queue_keeps_what_it_took_until_it_is_deleted(backend: str, module_database: Database) -> None:
    class Machine(QueueMachine):
        @staticmethod
        def opening() -> AbstractAsyncContextManager[Any]:
            return EVENT_QUEUES[backend](module_database, queue_bytes_max=10**9)

    run_state_machine_as_test(Machine, settings=RUNS)


class LedgerMachine(_Machine):
    batches = Bundle("batches")

    @initialize()
    def open(self) -> None:
        self.opened: OpenLedger = self.run(self.stack.enter_async_context(self.opening()))
        run = uuid.uuid4().hex[:12]
        self.tenants = dict(self.run(self.opened.new_tenant(f"{name}-{run}")) for name in TENANTS)
        self.ids = [uuid.uuid4() for _ in range(4)]
        self.done: set[tuple[TenantId, uuid.UUID]] = set()
        self.fingerprints: dict[tuple[TenantId, uuid.UUID], bytes] = {}
        self.expected: dict[TenantId, list[uuid.UUID]] = {tenant: [] for tenant in self.tenants}

    @rule(
        target=batches,
        tenant=st.integers(0, 1),
        ids=st.lists(st.none() | st.tuples(st.integers(0, 3), st.sampled_from([b"a", b"b"])), min_size=1, max_size=4),
    )
    def make(self, tenant: int, ids: list[tuple[int, bytes] | None]) -> PreparedBatch:
        name, log_id = list(self.tenants.items())[tenant]
        events = [
            an_event() if named is None else an_event(id=self.ids[named[0]], fingerprint=named[1] * 16) for named in ids
        ]
        return a_batch(name, log_id, *events)

    @rule(batches=st.lists(batches, min_size=1, max_size=4), dry_run=st.booleans())
    def append(self, batches: list[PreparedBatch], dry_run: bool) -> None:
        result = self.run(self.opened.ledger.append(batches, dry_run=dry_run))
        if not dry_run:
            stale = [i for i, batch in enumerate(batches) if not self._write(batch)]
            assert list(result.stale) == stale
            assert list(result.done) == [i for i in range(len(batches)) if i not in stale]
        for tenant, expected in self.expected.items():
            rows = self.run(self.opened.rows(tenant))
            assert [row["id"] for row in rows] == expected
            assert [row["position"] for row in rows] == list(range(len(rows)))

    def _write(self, batch: PreparedBatch) -> bool:
        if (batch.tenant, batch.batch_id) in self.done:
            return True
        new: dict[uuid.UUID, bytes] = {}
        for event in (prepared.event for prepared in batch.events if prepared.event.fingerprint):
            held = self.fingerprints.get((batch.tenant, event.id), new.setdefault(event.id, event.fingerprint or b""))
            if held != event.fingerprint:
                return False
        for event in (prepared.event for prepared in batch.events):
            if event.fingerprint is None:
                self.expected[batch.tenant].append(event.id)
            elif (batch.tenant, event.id) not in self.fingerprints:
                self.fingerprints[batch.tenant, event.id] = event.fingerprint
                self.expected[batch.tenant].append(event.id)
        self.done.add((batch.tenant, batch.batch_id))
        return True


@pytest.mark.parametrize("backend", LEDGERS)
def test_a_ledger_holds_each_event_once_at_a_position_without_gaps(backend: str, module_database: Database) -> None:
    class Machine(LedgerMachine):
        @staticmethod
        def opening() -> AbstractAsyncContextManager[Any]:
            return LEDGERS[backend](module_database)

    run_state_machine_as_test(Machine, settings=RUNS)
