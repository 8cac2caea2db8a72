"""The audit of the audit log, on the real queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from audit_contracts.errors import LedgerUnavailable, QueueUnavailable
from audit_contracts.event import Event
from audit_contracts.principal import Principal, Role, TenantId, permissions_of
from audit_kit import access_tallies
from audit_kit.access import AccessRecorder
from audit_kit.access_tallies import Deed, Tallies
from audit_kit.auth.attempts import Identity, RefusedAttempt
from tests.ingest_world import Fault, IngestWorld, ingest_world
from tests.kit_world import ManualClock
from tests.services import Database

ROUTE = "GET /api/v1/logs"
MINUTE_S = 60


@pytest.fixture(scope="module")
async def opened(module_database: Database) -> AsyncIterator[IngestWorld]:
    async with ingest_world(module_database) as opened:
        yield opened


@pytest.fixture
def world(opened: IngestWorld) -> IngestWorld:
    # The start of a minute, so that a test decides when it ends.
    opened.clock.advance(MINUTE_S - opened.clock.now_us() % (MINUTE_S * 1_000_000) / 1_000_000)
    return opened.with_new_queue()


@pytest.fixture
async def recorder(world: IngestWorld) -> AsyncIterator[AccessRecorder]:
    batcher = world.new_batcher()
    recorder = AccessRecorder(batcher=batcher, keyring=world.keyring, directory=world.directory, clock=world.clock)
    yield recorder
    world.queue.passing.set()
    await recorder.flush()
    await batcher.close()


def a_principal(tenant: TenantId, subject: str = "ann") -> Principal:
    return Principal(
        tenant=tenant,
        issuer="https://issuer.example",
        subject=subject,
        role=Role.AUDITOR,
        permissions=permissions_of(tenant, Role.AUDITOR),
    )


def metadata(event: Event) -> dict[str, Any]:
    assert event.content is not None
    decoded: dict[str, Any] = msgspec.json.decode(event.content)["metadata"]
    return decoded


def actions(events: Sequence[Event]) -> list[str]:
    return [event.action for event in events]


async def two_entries() -> list[str]:
    return ["one", "two"]


async def read(recorder: AccessRecorder, principal: Principal, route: str = ROUTE, **filter: Any) -> list[str]:
    return await recorder.read(principal, route=route, filter=filter, work=two_entries(), results=len)


def an_attempt(tenant: TenantId | None, subject: str = "ann", problem: str = "forbidden") -> RefusedAttempt:
    identity = Identity(issuer="https://issuer.example", subject=subject, tenant=tenant)
    return RefusedAttempt(identity=identity, principal=None, route=ROUTE, problem=problem)


async def test_a_read_is_durable_in_the_queue_before_its_answer(world: IngestWorld, recorder: AccessRecorder) -> None:
    tenant = await world.new_tenant()
    assert await read(recorder, a_principal(tenant), user_id=["ada"]) == ["one", "two"]
    (event,) = await world.events(tenant)
    assert (event.action, event.source, event.user_id) == ("auditlog.read", "auditlog", "ann")
    assert (event.resource_type, event.resource_id) == ("route", ROUTE)
    assert event.submitted_by == "https://issuer.example|ann"
    assert metadata(event)["filter"] == {"user_id": ["ada"]}


async def test_no_answer_where_the_record_is_refused_and_the_next_read_is_the_first_again(
    world: IngestWorld, recorder: AccessRecorder
) -> None:
    tenant = await world.new_tenant()
    world.queue.faults.append(Fault.REFUSED)
    with pytest.raises(QueueUnavailable):
        await read(recorder, a_principal(tenant))
    assert await world.events(tenant) == []
    await read(recorder, a_principal(tenant))
    assert actions(await world.events(tenant)) == ["auditlog.read"]


async def test_a_repeat_that_comes_while_the_first_is_being_recorded_waits_for_it(
    world: IngestWorld, recorder: AccessRecorder
) -> None:
    tenant = await world.new_tenant()
    world.queue.passing.clear()
    reads = [asyncio.create_task(read(recorder, a_principal(tenant))) for _ in range(2)]
    await world.queue.until_sends(1)
    assert not any(one.done() for one in reads)
    world.queue.faults.append(Fault.REFUSED)
    world.queue.passing.set()
    assert [type(answer) for answer in await asyncio.gather(*reads, return_exceptions=True)] == [QueueUnavailable] * 2


async def test_work_is_cancelled_where_the_record_is_refused(world: IngestWorld, recorder: AccessRecorder) -> None:
    tenant, cancelled = await world.new_tenant(), asyncio.Event()

    async def endless() -> list[str]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return []

    world.queue.faults.append(Fault.REFUSED)
    with pytest.raises(QueueUnavailable):
        await recorder.read(a_principal(tenant), route=ROUTE, filter={}, work=endless(), results=len)
    assert cancelled.is_set()


async def test_a_read_that_fails_is_recorded_all_the_same(world: IngestWorld, recorder: AccessRecorder) -> None:
    tenant = await world.new_tenant()

    async def failing() -> list[str]:
        raise LedgerUnavailable("down")

    with pytest.raises(LedgerUnavailable):
        await recorder.read(a_principal(tenant), route=ROUTE, filter={}, work=failing(), results=len)
    await recorder.flush()
    assert actions(await world.events(tenant)) == ["auditlog.read"]


async def test_repeats_of_a_minute_are_summed_up_in_one_more_event(
    world: IngestWorld, recorder: AccessRecorder
) -> None:
    tenant = await world.new_tenant()
    for _ in range(5):
        await read(recorder, a_principal(tenant), user_id=["ada"])
    world.clock.advance(MINUTE_S)
    await read(recorder, a_principal(tenant), user_id=["ada"])
    await recorder.flush(all_of_them=False)
    first, next_first, repeats = await world.events(tenant)
    assert actions([first, next_first, repeats]) == ["auditlog.read", "auditlog.read", "auditlog.read.repeats"]
    assert metadata(repeats)["repeats"] == 4
    assert metadata(repeats)["results"] == 10
    assert metadata(repeats)["filter_mac"] == metadata(first)["filter_mac"]


async def test_a_secret_in_a_filter_is_masked_whatever_holds_it_and_not_to_be_guessed_from_its_digest(
    world: IngestWorld, recorder: AccessRecorder
) -> None:
    digests = set()
    for holder in (list, tuple):
        tenant = await world.new_tenant()
        await read(recorder, a_principal(tenant), equal={"user_id": holder(["of 078-05-1120"])})
        (event,) = await world.events(tenant)
        assert "078-05-1120" not in str(metadata(event))
        digests.add(metadata(event)["filter_mac"])
    assert len(digests) == 2, "the same filter of two tenants"


async def test_other_principals_routes_and_filters_are_reads_of_their_own(
    world: IngestWorld, recorder: AccessRecorder
) -> None:
    tenant, other = await world.new_tenant(), await world.new_tenant()
    await read(recorder, a_principal(tenant))
    await read(recorder, a_principal(tenant, "bob"))
    await read(recorder, a_principal(tenant), route="GET /api/v1/logs/{id}")
    await read(recorder, a_principal(tenant), action=["LOGIN"])
    await read(recorder, a_principal(other))
    await recorder.flush()
    assert actions(await world.events(tenant)) == ["auditlog.read"] * 4


async def test_what_is_counted_is_told_when_the_process_stops(world: IngestWorld, recorder: AccessRecorder) -> None:
    tenant, stop = await world.new_tenant(), asyncio.Event()
    running = asyncio.ensure_future(recorder.worker().run(stop))
    for _ in range(3):
        await read(recorder, a_principal(tenant))
    stop.set()
    await running
    assert actions(await world.events(tenant)) == ["auditlog.read", "auditlog.read.repeats"]


async def test_a_secret_in_a_filter_is_masked(world: IngestWorld, recorder: AccessRecorder) -> None:
    tenant = await world.new_tenant()
    await read(recorder, a_principal(tenant), resource_id=["card 4111 1111 1111 1111"])
    (event,) = await world.events(tenant)
    assert event.content is not None
    assert b"4111 1111" not in event.content
    assert msgspec.json.decode(event.content)["masked"]


async def test_refused_attempts_are_told_once_and_then_counted(world: IngestWorld, recorder: AccessRecorder) -> None:
    tenant = await world.new_tenant()
    for _ in range(50):
        await recorder.refused(an_attempt(tenant))
    await recorder.refused(an_attempt(tenant, problem="tenant-mismatch"))
    await recorder.flush()
    events = await world.events(tenant)
    assert sorted(actions(events)) == ["auditlog.refused", "auditlog.refused", "auditlog.refused.repeats"]
    assert {(event.severity, event.outcome) for event in events} == {("WARNING", "failure")}
    assert [metadata(event)["repeats"] for event in events if event.action.endswith("repeats")] == [49]


async def test_a_flood_of_different_refusals_is_bounded(world: IngestWorld, recorder: AccessRecorder) -> None:
    tenant = await world.new_tenant()
    for number in range(access_tallies.REFUSALS_MAX + 50):
        await recorder.refused(an_attempt(tenant, subject=f"s-{number}"))
    await recorder.flush()
    events = await world.events(tenant)
    assert len(events) == access_tallies.REFUSALS_MAX + 2
    assert [metadata(event)["repeats"] for event in events if event.action.endswith("repeats")] == [49]


async def test_a_refusal_neither_waits_for_the_queue_nor_raises(world: IngestWorld, recorder: AccessRecorder) -> None:
    tenant = await world.new_tenant()
    world.queue.passing.clear()
    world.queue.faults.append(Fault.REFUSED)
    await recorder.refused(an_attempt(tenant))
    world.queue.passing.set()
    await recorder.flush()
    assert await world.events(tenant) == []


async def test_an_issuer_that_may_not_speak_for_a_tenant_writes_into_no_log(
    world: IngestWorld, recorder: AccessRecorder
) -> None:
    await recorder.refused(an_attempt(None))
    await recorder.flush()
    assert world.queue.sends == []


async def test_what_is_counted_at_once_is_bounded_and_nothing_of_it_is_lost(
    world: IngestWorld, recorder: AccessRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await world.new_tenant()
    monkeypatch.setattr(recorder, "_tallies", Tallies(world.clock, tallies_max=3))
    for name in ("a", "a", "b", "b", "c"):
        await read(recorder, a_principal(tenant), user_id=[name])
    await recorder.flush()
    assert sorted(actions(await world.events(tenant))) == ["auditlog.read"] * 3 + ["auditlog.read.repeats"] * 2


def test_a_deed_counts_anew_with_each_minute() -> None:
    clock = ManualClock()
    tallies = Tallies(clock)
    deed = Deed(TenantId("acme"), "ann", "iss|ann", "auditlog.read", ROUTE, "x")
    first = tallies.count(deed, {})
    assert tallies.count(deed, {}) is first
    clock.advance(tallies.minute_left_s)
    assert tallies.count(deed, {}) is not first
    assert tallies.take(all_of_them=False) == [first]
    assert tallies.take(all_of_them=True) == []
