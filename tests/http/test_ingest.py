"""POST /api/v1/logs on the real embedded queue."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
import zstandard

from audit_contracts.ports.tenant_directory import IngestMode, TenantChange, TenantLimits
from audit_contracts.principal import Role
from tests.ingest_server import IngestServer, entry, ingest_server
from tests.ingest_world import Fault, IngestWorld, ingest_world
from tests.services import Database

LOGS = "/api/v1/logs"
CLIENT_ID = "7d9f5e0a-9d5b-4f8e-8a3c-0a4c8e0f1b2d"


@pytest.fixture(scope="module")
async def opened(module_database: Database) -> AsyncIterator[IngestWorld]:
    async with ingest_world(module_database) as opened:
        yield opened


@pytest.fixture
async def server(opened: IngestWorld) -> AsyncIterator[IngestServer]:
    async with ingest_server(opened.with_new_queue()) as server:
        yield server


def at(server: IngestServer, **ahead: float) -> str:
    moment = datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(microseconds=server.world.clock.now_us())
    return (moment + timedelta(**ahead)).isoformat()


async def test_201_shows_the_entry_as_kept_and_it_is_in_the_queue(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    sent = entry(before={"a": 1}, after=None, metadata={"n": 1.5}, details="done", severity="ERROR", outcome="failure")
    async with server.client(tenant) as client:
        answer = await client.post(LOGS, json=sent)
    kept = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{LOGS}/{kept['id']}"
    assert kept.items() >= sent.items()
    assert kept["tenant_id"] == tenant
    assert kept["submitted_by"] == "urn:auditlog:dev|producer-1"
    assert kept["timestamp"] == kept["received_at"]
    (event,) = await server.world.events(tenant)
    assert event.id == UUID(kept["id"])
    assert event.id.version == 7
    assert event.fingerprint is None
    assert event.changes == b'{"before":{"a":1}}'
    assert event.content == b'{"metadata":{"n":1.5},"details":"done"}'


async def test_defaults_are_filled_in(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    async with server.client(tenant) as client:
        kept = (await client.post(LOGS, json=entry())).json()
    assert (kept["severity"], kept["outcome"]) == ("INFO", "unknown")
    assert "masked" not in kept
    (event,) = await server.world.events(tenant)
    assert (event.changes, event.content, event.flags) == (None, None, [])


async def test_aliases_are_taken_and_never_both_names(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    async with server.client(tenant) as client:
        aliased = entry(action=None, action_type="LOGIN", before_state=1, after_state=2, message="hello")
        kept = (await client.post(LOGS, json=aliased)).json()
        assert (kept["action"], kept["before"], kept["after"], kept["details"]) == ("LOGIN", 1, 2, "hello")
        both = await client.post(LOGS, json=entry(action_type="LOGIN"))
        wrong = await client.post(LOGS, json=entry(action=None, action_type="no spaces"))
    assert [(e["pointer"], e["code"]) for e in both.json()["errors"]] == [("/action_type", "alias_conflict")]
    assert [e["pointer"] for e in wrong.json()["errors"]] == ["/action_type"]


@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        ({"user_id": None}, ["/user_id"]),
        ({"action": ""}, ["/action"]),
        ({"action": "auditlog.read"}, ["/action"]),
        ({"action": "AUDITLOG.read"}, ["/action"]),
        ({"source": "Auditlog"}, ["/source"]),
        ({"source": "auditlog"}, ["/source"]),
        ({"timestamp": "2026-01-01T00:00:00"}, ["/timestamp"]),
        ({"timestamp": "1969-12-31T23:59:59Z"}, ["/timestamp"]),
        ({"timestamp": 1767225600}, ["/timestamp"]),
        ({"ip_address": "300.1.1.1"}, ["/ip_address"]),
        ({"ip_address": "fe80::1%eth0"}, ["/ip_address"]),
        ({"ip_address": "01.2.3.4"}, ["/ip_address"]),
        ({"severity": "info", "outcome": "ok", "nope": 1}, ["/severity", "/outcome", "/nope"]),
        ({"producer_seq": True}, ["/producer_seq"]),
        ({"metadata": [1]}, ["/metadata"]),
        ({"metadata": {str(i): 0 for i in range(10_001)}}, ["/metadata"]),
        ({"request_id": "a b"}, ["/request_id"]),
        ({"correlation_id": "password=hunter2"}, ["/correlation_id"]),
    ],
)
async def test_what_breaks_the_contract_is_named_by_pointer_and_nothing_is_taken(
    server: IngestServer, fields: dict[str, Any], pointers: list[str]
) -> None:
    tenant = await server.world.new_tenant()
    async with server.client(tenant) as client:
        answer = await client.post(
            LOGS, content=json.dumps(entry() | fields), headers={"Content-Type": "application/json"}
        )
    assert answer.status_code == 422
    assert sorted(error["pointer"] for error in answer.json()["errors"]) == sorted(pointers)
    assert await server.world.events(tenant) == []


@pytest.mark.parametrize(
    ("raw", "pointer", "code"),
    [
        (b'{"metadata":{"a":"x\\u0000"}}', "/metadata/a", "nul_character"),
        (b'{"metadata":{"a":"\\ud800"}}', "/metadata/a", "lone_surrogate"),
        (b'{"metadata":{"a":NaN}}', "/metadata/a", "not_finite"),
        (b'{"metadata":{"a":1e400}}', "/metadata/a", "float_range"),
        (b'{"metadata":{"a":18446744073709551616}}', "/metadata/a", "integer_range"),
        (b'{"metadata":{"a":1,"a":2}}', "/metadata/a", "duplicate_key"),
        (b'{"metadata":{"a":"\xff"}}', "/metadata/a", "not_utf8"),
        (b'{"metadata":' + b"[" * 32 + b"]" * 32 + b"}", "/metadata" + "/0" * 31, "too_deep"),
        (b'{"user_id":', "/user_id", "not_json"),
        (b"[]", "", "object"),
        (b"", "", "not_json"),
    ],
)
async def test_json_that_two_readers_may_read_differently_is_refused_with_its_place(
    server: IngestServer, raw: bytes, pointer: str, code: str
) -> None:
    tenant = await server.world.new_tenant()
    async with server.client(tenant) as client:
        answer = await client.post(LOGS, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [(pointer, code)]


@pytest.mark.parametrize(
    ("ahead_h", "status", "flags"),
    [(0, 201, None), (0.2, 201, ["clock_skew"]), (23.9, 201, ["clock_skew"]), (24.1, 422, None), (-25, 201, ["late"])],
)
async def test_clocks_that_are_off_are_flagged_and_far_ahead_refused(
    server: IngestServer, ahead_h: float, status: int, flags: list[str] | None
) -> None:
    async with server.client(await server.world.new_tenant()) as client:
        answer = await client.post(LOGS, json=entry(timestamp=at(server, hours=ahead_h)))
    assert answer.status_code == status
    assert answer.json().get("flags") == flags


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
    ],
)
async def test_addresses_are_kept_in_their_normal_form(server: IngestServer, sent: str, kept: str) -> None:
    async with server.client(await server.world.new_tenant()) as client:
        assert (await client.post(LOGS, json=entry(ip_address=sent))).json()["ip_address"] == kept


async def test_secrets_are_masked_in_the_answer_and_in_the_queue(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    sent = entry(
        user_id="Bearer c2VjcmV0LXRva2VuLTEyMzQ1Njc4",  # house: allow(secret)
        metadata={"clientSecret": "hunter2", "card": "4111 1111 1111 1111"},
        after={"password": "hunter2"},
        details="login with password=hunter2",
    )
    async with server.client(tenant) as client:
        kept = (await client.post(LOGS, json=sent)).json()
    (batch,) = await server.world.drain(tenant)
    for text in (json.dumps(kept), str(msgspec.to_builtins(batch.events[0])), batch.body.decode("latin-1")):
        assert "hunter2" not in text
        assert "4111 1111" not in text
        assert "c2VjcmV0" not in text
    assert {path for path, _ in kept["masked"]} >= {"/metadata/clientSecret", "/metadata/card", "/after/password"}
    assert kept["user_id"].startswith("[HASH:")


async def test_the_tenant_is_the_tokens_and_a_body_may_only_agree(server: IngestServer) -> None:
    tenant, other = await server.world.new_tenant(), await server.world.new_tenant()
    async with server.client(tenant) as client:
        assert (await client.post(LOGS, json=entry(tenant_id=tenant))).status_code == 201
        answer = await client.post(LOGS, json=entry(tenant_id=other))
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:auditlog:problem:tenant-mismatch"
    await server.access.flush()
    actions = [(batch.tenant, e.action) for batch in await server.world.drain(tenant, other) for e in batch.events]
    assert sorted(actions) == sorted([(tenant, "UPDATE"), (tenant, "auditlog.refused")])


async def test_a_user_writes_only_as_itself(server: IngestServer) -> None:
    async with server.client(await server.world.new_tenant(), Role.USER, "ada") as client:
        assert (await client.post(LOGS, json=entry(user_id="ada"))).status_code == 201
        assert (await client.post(LOGS, json=entry(user_id="bob"))).status_code == 403


async def test_an_auditor_and_a_stranger_write_nothing(server: IngestServer) -> None:
    async with server.client(await server.world.new_tenant(), Role.AUDITOR) as client:
        assert (await client.post(LOGS, json=entry())).status_code == 403
        assert (await client.post(LOGS, json=entry(), headers={"Authorization": "Bearer x"})).status_code == 401


async def test_a_blocked_tenant_is_refused(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    await server.world.registry.change_tenant(tenant, TenantChange(ingest=IngestMode.BLOCKED))
    async with server.client(tenant) as client:
        answer = await client.post(LOGS, json=entry())
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:auditlog:problem:tenant-suspended")


async def test_the_clients_id_stands_and_its_repeat_has_the_same_fingerprint(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    sent = entry(id=CLIENT_ID, timestamp="2026-01-01T00:00:00Z", ip_address="::ffff:1.2.3.4", session_id=None)
    same = entry(
        id=CLIENT_ID.upper(), timestamp="2026-01-01T01:00:00+01:00", ip_address="1.2.3.4", tenant_id=tenant, source=None
    )
    async with server.client(tenant) as client:
        for body in (sent, same, sent | {"details": "other"}):
            answer = await client.post(LOGS, json=body | {"user_agent": None})
            assert answer.json()["id"] == CLIENT_ID
    async with server.client(tenant, subject="producer-2") as other:
        await other.post(LOGS, json=sent)
    first, repeat, changed, others = [event.fingerprint for event in await server.world.events(tenant)]
    assert first == repeat
    assert len({first, changed, others}) == 3
    assert first is not None
    assert len(first) == 16


async def test_a_fingerprint_is_over_what_was_sent_before_masking(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    async with server.client(tenant) as client:
        for secret in ("hunter2", "hunter3"):
            await client.post(LOGS, json=entry(id=CLIENT_ID, metadata={"password": secret}))
    one, other = await server.world.events(tenant)
    assert one.content == other.content
    assert one.fingerprint != other.fingerprint


async def test_a_key_gives_the_same_id_again_and_no_other_body_may_use_it(server: IngestServer) -> None:
    tenant, other = await server.world.new_tenant(), await server.world.new_tenant()
    headers = {"Idempotency-Key": "order-1"}
    async with server.client(tenant) as client:
        first = await client.post(LOGS, json=entry(), headers=headers)
        again = await client.post(LOGS, json=entry(), headers=headers)
        conflict = await client.post(LOGS, json=entry(details="x"), headers=headers)
        assert (conflict.status_code, conflict.json()["type"]) == (422, "urn:auditlog:problem:idempotency-conflict")
    async with server.client(tenant, subject="producer-2") as client:
        second = await client.post(LOGS, json=entry(), headers=headers)
    async with server.client(other) as client:
        third = await client.post(LOGS, json=entry(), headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert len({one.json()["id"] for one in (first, second, third)}) == 3
    one, repeat, *_ = await server.world.events(tenant)
    assert one.fingerprint == repeat.fingerprint is not None


async def test_an_invalid_body_does_not_use_up_its_key(server: IngestServer) -> None:
    headers = {"Idempotency-Key": "order-1"}
    async with server.client(await server.world.new_tenant()) as client:
        assert (await client.post(LOGS, json=entry(action=""), headers=headers)).status_code == 422
        assert (await client.post(LOGS, json=entry(), headers=headers)).status_code == 201


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"caf\xe9"])
async def test_a_key_that_is_no_key_is_refused(server: IngestServer, key: bytes) -> None:
    async with server.client(await server.world.new_tenant()) as client:
        answer = await client.post(LOGS, json=entry(), headers={b"Idempotency-Key": key})
    assert answer.status_code == 422


async def test_the_trace_of_the_caller_fills_the_entrys(server: IngestServer) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    async with server.client(await server.world.new_tenant()) as client:
        assert (await client.post(LOGS, json=entry(), headers=headers)).json()["trace_id"] == trace
        own = await client.post(LOGS, json=entry(trace_id="own"), headers=headers)
        assert own.json()["trace_id"] == "own"
        assert "trace_id" not in (await client.post(LOGS, json=entry())).json()
        assert "trace_id" not in (await client.post(LOGS, json=entry(), headers={"traceparent": "00-x"})).json()


async def test_a_receipt_names_batch_and_ordinal_under_the_tenants_key(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    async with server.client(tenant) as client:
        text = (await client.post(LOGS, json=entry())).json()["receipt"]
    raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    version, key_id, batch_id, first, count = struct.unpack(">B16s16sII", raw[:-32])
    key = await server.world.keyring.receipt_key_by_id(tenant, UUID(bytes=key_id))
    (batch,) = await server.world.drain(tenant)
    assert (version, UUID(bytes=batch_id), first, count) == (1, batch.head.batch_id, 0, 1)
    assert raw[-32:] == key.mac(b"auditlog/receipt/1\n" + tenant.encode() + b"\n" + raw[:-32])


async def test_a_queue_that_refuses_is_503_and_nothing_is_acknowledged(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    server.world.queue.faults.append(Fault.REFUSED)
    async with server.client(tenant) as client:
        answer = await client.post(LOGS, json=entry())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert await server.world.events(tenant) == []
        assert (await client.post(LOGS, json=entry())).status_code == 201


async def test_an_outcome_that_stays_unknown_is_503_and_its_repeat_by_key_the_same_event(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    server.world.queue.faults.extend([Fault.UNKNOWN] * 3)
    async with server.client(tenant) as client:
        lost = await client.post(LOGS, json=entry(), headers={"Idempotency-Key": "k"})
        assert (lost.status_code, lost.json()["type"]) == (503, "urn:auditlog:problem:outcome-unknown")
        assert (await client.post(LOGS, json=entry(), headers={"Idempotency-Key": "k"})).status_code == 201
    assert len({event.id for event in await server.world.events(tenant)}) == 1


async def test_201_waits_for_the_queue(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    server.world.queue.passing.clear()
    async with server.client(tenant) as client:
        posts = [asyncio.create_task(client.post(LOGS, json=entry())) for _ in range(3)]
        await server.world.queue.until_sends(1)
        assert not any(post.done() for post in posts)
        server.world.queue.passing.set()
        assert [(await post).status_code for post in posts] == [201] * 3


async def test_a_stop_answers_what_was_accepted_and_refuses_what_comes_after(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    server.world.queue.passing.clear()
    async with server.client(tenant) as client:
        posts = [asyncio.create_task(client.post(LOGS, json=entry())) for _ in range(5)]
        await server.world.queue.until_sends(1)
        closing = asyncio.create_task(server.batcher.close())
        server.world.queue.passing.set()
        await closing
        assert {(await post).status_code for post in posts} <= {201, 503}
        durable = [(await post).status_code for post in posts].count(201)
        assert (await client.post(LOGS, json=entry())).status_code == 503
    assert len(await server.world.events(tenant)) == durable >= 1


async def test_an_entry_over_its_bound_is_413_compressed_or_not(server: IngestServer) -> None:
    body = json.dumps(entry(details="x" * 65_000, metadata={"y": "z" * 70_000})).encode()
    bomb = b'{"details":"' + b"x" * 50_000_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    async with server.client(await server.world.new_tenant()) as client:
        for encoding, sent in {
            "identity": body,
            "gzip": gzip.compress(bomb),
            "zstd": zstandard.compress(bomb),
        }.items():
            answer = await client.post(LOGS, content=sent, headers=headers | {"Content-Encoding": encoding})
            assert (answer.status_code, answer.json()["type"]) == (413, "urn:auditlog:problem:too-large")
        small = gzip.compress(json.dumps(entry()).encode())
        taken = await client.post(LOGS, content=small, headers=headers | {"Content-Encoding": "gzip"})
    assert taken.status_code == 201


async def test_an_event_that_no_message_of_the_queue_can_carry_is_413(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    server.world.queue.message_bytes_max = 200
    async with server.client(tenant) as client:
        answer = await client.post(LOGS, json=entry(details="".join(map(chr, range(300, 3_000)))))
    assert answer.status_code == 413
    assert await server.world.events(tenant) == []


async def test_over_the_rate_is_429_with_when_and_how_much(server: IngestServer) -> None:
    tenant, other = await server.world.new_tenant(), await server.world.new_tenant()
    limits = TenantLimits(events_per_s=1, burst_events=2)
    await server.world.registry.change_tenant(tenant, TenantChange(limits=limits))
    async with server.client(tenant) as client:
        answers = [await client.post(LOGS, json=entry()) for _ in range(3)]
        async with server.client(other) as beside:
            assert (await beside.post(LOGS, json=entry())).status_code == 201
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert [answer.headers["ratelimit"].partition(";t")[0] for answer in answers] == [
        '"events";r=1',
        '"events";r=0',
        '"events";r=0',
    ]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert len(await server.world.events(tenant)) == 2


async def test_what_is_asked_wrongly_is_told_as_it_is(server: IngestServer) -> None:
    async with server.client(await server.world.new_tenant()) as client:
        assert (await client.post(LOGS, content=b"x", headers={"Content-Type": "text/plain"})).status_code == 415
        assert (await client.post(f"{LOGS}?on_error=skip", json=entry())).status_code == 422
        assert (await client.post(LOGS, json=entry(), headers={"Accept": "text/html"})).status_code == 406
        broken = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        assert (await client.post(LOGS, content=b"x", headers=broken)).status_code == 400
