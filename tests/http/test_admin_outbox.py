"""Changes and their records: committed together, sent when the queue takes them, in the ledger once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import pytest

from audit_backends.key_store.file import FileKeyStore
from audit_backends.ledger.postgres import PostgresLedger
from audit_backends.postgres_pool import postgres_pool
from audit_contracts.errors import KeyUnavailable, QueueUnavailable, SendUnknown
from audit_contracts.principal import TenantId
from audit_kit.clock import SystemClock
from audit_kit.metrics import ADMIN_OUTBOX_MESSAGES
from audit_projector.ledger import LedgerProjector
from tests.admin_world import AdminWorld, admin_world, changes
from tests.ingest_world import Fault
from tests.pipeline import projecting
from tests.services import Database

RENAMED = {"name": "Acme Inc."}


@pytest.fixture
async def world(database: Database) -> AsyncIterator[AdminWorld]:
    async with admin_world(database) as opened:
        await opened.new_tenant("acme")
        await opened.recorded("nobody")
        opened.queue.sends.clear()
        yield opened


async def rename(world: AdminWorld) -> int:
    return (await world.call("PATCH", "/tenants/acme", RENAMED, token=world.token("acme"))).status_code


async def waiting(world: AdminWorld) -> Sequence[UUID]:
    """The batch ids in the outbox."""
    return [row["batch_id"] for row in await world.owner.fetch("SELECT batch_id FROM auditlog.outbox")]


async def version(world: AdminWorld) -> int:
    return (await world.registry.tenant(TenantId("acme"))).version


@asynccontextmanager
async def relaying(world: AdminWorld) -> AsyncIterator[None]:
    """The part's relay, run for the block and stopped as SIGTERM does."""
    [worker] = [worker for worker in world.part.workers if worker.name == "outbox-relay"]
    stop = asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(cast(Coroutine[Any, Any, None], worker.run(stop)))
        yield
        stop.set()


async def arrived(world: AdminWorld) -> int:
    """How many messages the queue has as soon as it has any."""
    return len(await world.receiver.receive(messages_max=100, wait_s=10, visibility_s=60))


async def in_ledger(world: AdminWorld, database: Database) -> list[str]:
    """The actions of acme's changes, once the projector has written all that is in the queue."""
    async with postgres_pool(database.url_for("projector"), part="projector") as pool:
        projector = LedgerProjector(
            queue=world.receiver, ledger=PostgresLedger(pool), keyring=world.keyring, clock=SystemClock()
        )
        async with asyncio.timeout(20), projecting(projector):
            while await world.owner.fetchval(  # noqa: ASYNC110 - a database tells no event
                "SELECT count(*) FROM auditlog_queue.messages"
            ):
                await asyncio.sleep(0.02)
    rows = await world.owner.fetch("SELECT action FROM auditlog.entries WHERE tenant = 'acme' ORDER BY position")
    return [row["action"] for row in rows]


async def test_a_change_is_done_and_recorded_though_the_queue_is_down(world: AdminWorld) -> None:
    world.queue.faults.append(Fault.REFUSED)
    assert await rename(world) == 200
    assert world.queue.sends == [], "the record was committed with the change, before anything was sent"
    with pytest.raises(QueueUnavailable):
        await world.relay.relay()
    assert len(await waiting(world)) == 1
    [event] = await world.recorded("acme")
    assert changes(event).after == {"name": "Acme Inc.", "version": 2}
    assert await waiting(world) == []


async def test_every_change_commits_its_record_with_it(world: AdminWorld) -> None:
    token, operator = world.token("acme"), world.operator_key
    made = await world.call("POST", "/tenants/acme/keys", {"name": "x", "role": "user"}, token=token)
    steps: list[tuple[str, str, Any, str]] = [
        ("DELETE", f"/tenants/acme/keys/{made.json()['key_id']}", None, token),
        ("POST", "/tenants/acme/key-rotations", None, token),
        ("PATCH", "/tenants/acme", {"status": "suspended"}, operator),
        ("DELETE", "/tenants/acme", None, operator),
        ("POST", "/tenants", {"tenant_id": "initech", "name": "Initech"}, operator),
    ]
    assert len(await waiting(world)) == 1
    for method, path, body, who in steps:
        before = await waiting(world)
        answer = await world.call(method, path, body, token=who)
        assert answer.is_success, answer.text
        assert len(await waiting(world)) - len(before) == (2 if who == operator else 1), path
    assert [event.action.rpartition(".")[2] for event in await world.recorded("acme")] == [
        "create",
        "revoke",
        "rotate",
        "update",
        "delete",
    ]


async def test_what_was_sent_and_not_taken_out_is_sent_again_and_stands_once(
    world: AdminWorld, database: Database
) -> None:
    assert await in_ledger(world, database) == []
    world.queue.faults += [Fault.UNKNOWN, Fault.UNKNOWN]
    assert await rename(world) == 200
    [batch_id] = await waiting(world)
    for _ in range(2):
        with pytest.raises(SendUnknown):
            await world.relay.relay()
    await world.relay.relay()
    queued = await world.owner.fetch("SELECT batch_id FROM auditlog_queue.messages")
    assert [row["batch_id"] for row in queued] == [batch_id] * 3
    assert await in_ledger(world, database) == ["auditlog.change.update"]


async def test_a_relay_that_is_cut_off_while_it_sends_leaves_the_record_to_the_next(world: AdminWorld) -> None:
    assert await rename(world) == 200
    world.queue.passing.clear()
    cut = asyncio.create_task(world.relay.relay())
    await world.queue.until_sends(1)
    cut.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cut
    world.queue.passing.set()
    assert len(await waiting(world)) == 1
    assert len(await world.recorded("acme")) == 1


async def test_two_relays_never_have_the_same_record_in_hand(world: AdminWorld) -> None:
    assert await rename(world) == 200
    world.queue.passing.clear()
    first = asyncio.create_task(world.relay.relay())
    await world.queue.until_sends(1)
    await asyncio.wait_for(world.relay.relay(), 10)
    assert len(world.queue.sends) == 1
    world.queue.passing.set()
    await first
    assert len(await world.recorded("acme")) == 1


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        ("RAISE EXCEPTION 'no'", "directory-unavailable"),
        ("PERFORM pg_terminate_backend(pg_backend_pid())", "outcome-unknown"),
    ],
)
async def test_a_change_whose_commit_fails_records_nothing(world: AdminWorld, end: str, problem: str) -> None:
    await world.owner.execute(
        f"""
        CREATE FUNCTION auditlog.fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
            $$BEGIN {end}; RETURN NULL; END$$;
        CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON auditlog.tenants DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION auditlog.fail();
        """
    )
    answer = await world.call("PATCH", "/tenants/acme", RENAMED, token=world.token("acme"))
    assert (answer.status_code, answer.json()["type"]) == (503, f"urn:auditlog:problem:{problem}")
    assert (await version(world), await waiting(world)) == (1, [])


async def test_a_change_that_cannot_be_recorded_does_not_happen(
    world: AdminWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: object) -> bytes:
        raise KeyUnavailable("the key store can't be reached")

    monkeypatch.setattr(FileKeyStore, "unwrap", unavailable)
    for method, path, body in (
        ("PATCH", "/tenants/acme", RENAMED),
        ("POST", "/tenants/acme/keys", {"name": "x", "role": "user"}),
        ("POST", "/tenants/acme/key-rotations", None),
    ):
        answer = await world.call(method, path, body, token=world.token("acme"))
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:auditlog:problem:key-unavailable")
        assert "Retry-After" in answer.headers
    assert (await version(world), await waiting(world)) == (1, [])
    assert await world.owner.fetchval("SELECT count(*) FROM auditlog.api_keys WHERE tenant = 'acme'") == 1
    assert await world.owner.fetchval("SELECT max(generation) FROM auditlog.tenant_keys") == 1


async def test_no_policy_of_a_tenant_keeps_its_changes_from_being_recorded(world: AdminWorld) -> None:
    masking = {"patterns": [{"name": "all", "pattern": "auditlog|change|tenant", "mode": "redact"}]}
    answer = await world.call("PATCH", "/tenants/acme", {"masking": masking}, token=world.token("acme"))
    assert answer.status_code == 200
    assert [event.action for event in await world.recorded("acme")] == ["auditlog.change.update"]


async def test_a_change_is_masked_by_the_policy_that_it_sets(world: AdminWorld) -> None:
    masking = {"patterns": [{"name": "employee", "pattern": "E-[0-9]{6}", "mode": "redact"}]}
    body = {"name": "E-123456", "masking": masking}
    assert (await world.call("PATCH", "/tenants/acme", body, token=world.token("acme"))).status_code == 200
    [event] = await world.recorded("acme")
    assert changes(event).after["name"] == "[REDACTED]"


async def test_the_worker_relays_what_a_process_before_it_left_behind(world: AdminWorld) -> None:
    assert await rename(world) == 200
    async with relaying(world):
        assert await arrived(world) == 1
    assert await waiting(world) == []


async def test_the_worker_relays_a_change_as_soon_as_it_is_made(world: AdminWorld) -> None:
    async with relaying(world):
        for _ in range(3):
            assert await rename(world) == 200
            assert await arrived(world) == 1
    assert await waiting(world) == []


async def test_the_worker_waits_for_a_queue_that_is_down_and_stops_while_it_waits(world: AdminWorld) -> None:
    world.queue.faults += [Fault.REFUSED] * 10
    assert await rename(world) == 200
    async with relaying(world):
        await world.queue.until_sends(2)
    assert len(world.queue.sends) < 10
    assert len(await waiting(world)) == 1
    assert ADMIN_OUTBOX_MESSAGES._value.get() == 1
