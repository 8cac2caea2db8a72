"""POST /api/v1/logs/bulk on the real embedded queue."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import zstandard

from audit_contracts.ports.tenant_directory import TenantChange, TenantLimits
from audit_contracts.principal import Role
from tests.ingest_server import BOUNDS, IngestServer, entry, ingest_server, ndjson
from tests.ingest_world import Fault, IngestWorld, ingest_world
from tests.services import Database

BULK = "/api/v1/logs/bulk"
ARRAY = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
async def opened(module_database: Database) -> AsyncIterator[IngestWorld]:
    async with ingest_world(module_database) as opened:
        yield opened


@pytest.fixture
async def server(opened: IngestWorld) -> AsyncIterator[IngestServer]:
    async with ingest_server(opened.with_new_queue()) as server:
        yield server


def numbered(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [entry(resource_id=str(number), **fields) for number in range(count)]


def errors(answer: httpx.Response) -> list[tuple[str, str]]:
    return [(error["pointer"], error["code"]) for error in answer.json()["errors"]]


@pytest.mark.parametrize("media_type", ["application/json", "application/x-ndjson", "application/jsonl; charset=utf-8"])
@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
async def test_every_form_of_a_bulk_is_taken_in_order(server: IngestServer, media_type: str, encoding: str) -> None:
    tenant, entries = await server.world.new_tenant(), numbered(50)
    body = json.dumps(entries).encode() if media_type == "application/json" else ndjson(*entries)
    packed = {"identity": body, "gzip": gzip.compress(body), "zstd": zstandard.compress(body)}[encoding]
    async with server.client(tenant) as client:
        answer = await client.post(
            BULK, content=packed, headers={"Content-Type": media_type, "Content-Encoding": encoding}
        )
    assert answer.status_code == 201
    taken = answer.json()
    assert taken.keys() == {"accepted", "ids", "receipt"}
    events = await server.world.events(tenant)
    assert [event.resource_id for event in events] == [str(number) for number in range(50)]
    assert (taken["accepted"], taken["ids"]) == (50, [str(event.id) for event in events])


async def test_one_invalid_entry_and_nothing_is_taken_all_faults_told_by_index(server: IngestServer) -> None:
    tenant, entries = await server.world.new_tenant(), numbered(10)
    entries[3]["action"] = "no spaces"
    entries[3]["severity"] = "loud"
    del entries[7]["user_id"]
    async with server.client(tenant) as client:
        answer = await client.post(BULK, json=entries)
    assert answer.status_code == 422
    assert errors(answer) == [
        ("/3/action", "string_pattern_mismatch"),
        ("/3/severity", "enum"),
        ("/7/user_id", "missing"),
    ]
    assert "errors_total" not in answer.json()
    assert await server.world.events(tenant) == []


async def test_faults_past_the_hundredth_are_counted_and_said_to_be(server: IngestServer) -> None:
    async with server.client(await server.world.new_tenant()) as client:
        answer = await client.post(BULK, json=numbered(250, action="no spaces"))
    assert len(answer.json()["errors"]) == 100
    assert answer.json()["errors_total"] == 250


async def test_skip_takes_the_rest_and_lists_the_refused_by_index(server: IngestServer) -> None:
    tenant, entries = await server.world.new_tenant(), numbered(6)
    entries[1]["action"] = "no spaces"
    entries[4]["unknown"] = 1
    async with server.client(tenant) as client:
        answer = await client.post(f"{BULK}?on_error=skip", json=entries)
    assert answer.status_code == 201
    taken = answer.json()
    assert (taken["accepted"], len(taken["ids"]), taken["refused"], taken["errors_total"]) == (4, 4, [1, 4], 2)
    assert errors(answer) == [("/1/action", "string_pattern_mismatch"), ("/4/unknown", "extra_forbidden")]
    assert [event.resource_id for event in await server.world.events(tenant)] == ["0", "2", "3", "5"]


async def test_skip_with_nothing_left_is_a_refusal(server: IngestServer) -> None:
    async with server.client(await server.world.new_tenant()) as client:
        answer = await client.post(f"{BULK}?on_error=skip", json=numbered(3, action=""))
    assert answer.status_code == 422
    assert len(errors(answer)) == 3


@pytest.mark.parametrize("query", ["?on_error=stop", "?on_error=skip&on_error=skip", "?other=1"])
async def test_a_parameter_that_is_unknown_is_refused(server: IngestServer, query: str) -> None:
    async with server.client(await server.world.new_tenant()) as client:
        answer = await client.post(f"{BULK}{query}", json=[entry()])
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:auditlog:problem:invalid-parameter")


@pytest.mark.parametrize("query", ["", "?on_error=skip"])
async def test_another_tenant_in_item_seven_is_403_and_nothing_is_taken(server: IngestServer, query: str) -> None:
    tenant, other = await server.world.new_tenant(), await server.world.new_tenant()
    entries = numbered(10)
    entries[7]["tenant_id"] = other
    async with server.client(tenant) as client:
        answer = await client.post(f"{BULK}{query}", json=entries)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:auditlog:problem:tenant-mismatch")
    await server.access.flush()
    (batch,) = await server.world.drain(tenant, other)
    assert batch.tenant == tenant
    assert [event.action for event in batch.events] == ["auditlog.refused"]


async def test_a_user_writes_as_itself_in_every_item(server: IngestServer) -> None:
    async with server.client(await server.world.new_tenant(), Role.USER, "ada") as client:
        assert (await client.post(BULK, json=[entry(user_id="ada"), entry(user_id="bob")])).status_code == 403
        assert (await client.post(BULK, json=[entry(user_id="ada")] * 2)).status_code == 201


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b'[{"a":1,"a":2}]', ARRAY, [("/0/a", "duplicate_key")]),
        (b'[{}, {"a":"\\u0000"}]', ARRAY, [("/1/a", "nul_character")]),
        (b'{"a":NaN}\n\n5\n', LINES, [("/0/a", "not_finite"), ("/1", "object")]),
        (b'{"a":1}\n{"b":', LINES, [("/1/b", "not_json")]),
        (b"[", ARRAY, [("", "not_json")]),
        (b"{}", ARRAY, [("", "not_json")]),
        (b"[]", ARRAY, [("", "empty")]),
        (b"\n \r\n", LINES, [("", "empty")]),
        (b"", ARRAY, [("", "not_json")]),
    ],
)
async def test_what_is_not_strict_json_is_told_by_index_and_place(
    server: IngestServer, body: bytes, headers: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    async with server.client(await server.world.new_tenant()) as client:
        answer = await client.post(BULK, content=body, headers=headers)
    assert answer.status_code == 422
    assert set(errors(answer)) >= set(expected)


async def test_an_entry_over_its_bound_is_one_fault_among_others(server: IngestServer) -> None:
    tenant, entries = await server.world.new_tenant(), numbered(3)
    entries[1]["metadata"] = {"x": "y" * BOUNDS.entry_bytes_max}
    async with server.client(tenant) as client:
        assert errors(await client.post(BULK, json=entries)) == [("/1", "too_large")]
        assert (await client.post(f"{BULK}?on_error=skip", json=entries)).json()["refused"] == [1]


async def test_more_entries_than_the_bound_are_413(server: IngestServer) -> None:
    async with server.client(await server.world.new_tenant()) as client:
        answer = await client.post(BULK, content=b"{}\n" * 10_001, headers=LINES)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:auditlog:problem:too-large")


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
async def test_a_body_or_a_bomb_over_the_bound_is_413(server: IngestServer, encoding: str) -> None:
    body = b" " * (BOUNDS.bulk_bytes_max + 1)
    packed = {"identity": body, "gzip": gzip.compress(body), "zstd": zstandard.compress(body)}[encoding]
    async with server.client(await server.world.new_tenant()) as client:
        answer = await client.post(BULK, content=packed, headers=ARRAY | {"Content-Encoding": encoding})
    assert answer.status_code == 413


async def test_a_bulk_of_many_messages_is_one_answer(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    server.world.queue.message_bytes_max = 16 * 1024
    async with server.client(tenant) as client:
        answer = await client.post(BULK, json=numbered(2_000, details="some words for each of them"))
    batches = await server.world.drain(tenant)
    assert len(batches) > 1
    assert [str(event.id) for batch in batches for event in batch.events] == answer.json()["ids"]


async def test_a_part_that_the_queue_refused_is_503_and_the_repeat_by_key_adds_the_same_events(
    server: IngestServer,
) -> None:
    tenant, headers = await server.world.new_tenant(), {"Idempotency-Key": "import-1"}
    server.world.queue.message_bytes_max = 16 * 1024
    async with server.client(tenant) as client:
        assert (await client.post(BULK, json=numbered(500), headers=headers)).status_code == 201
        messages = len(server.world.queue.sends[0])
        whole = await server.world.events(tenant)
        server.world.queue.faults.append([*[None] * (messages - 1), Fault.REFUSED])
        partial = await client.post(BULK, json=numbered(500), headers=headers)
        assert (partial.status_code, partial.headers["retry-after"]) == (503, "1")
        some = await server.world.events(tenant)
        assert (await client.post(BULK, json=numbered(500), headers=headers)).status_code == 201
    assert 0 < len(some) < 500
    again = await server.world.events(tenant)
    assert [event.id for event in again] == [event.id for event in whole]
    assert [event.fingerprint for event in again] == [event.fingerprint for event in whole]
    assert {event.id for event in some} < {event.id for event in whole}


async def test_ids_by_key_count_ordinals_before_any_skip(server: IngestServer) -> None:
    tenant, headers = await server.world.new_tenant(), {"Idempotency-Key": "k"}
    entries = numbered(4)
    entries[1]["timestamp"] = "2026-01-01T00:00:00"
    async with server.client(tenant) as client:
        first = await client.post(f"{BULK}?on_error=skip", json=entries, headers=headers)
        again = await client.post(f"{BULK}?on_error=skip", json=entries, headers=headers)
        other = await client.post(f"{BULK}?on_error=skip", json=entries[:3], headers=headers)
    assert first.json()["ids"] == again.json()["ids"]
    assert len(set(first.json()["ids"])) == 3
    assert other.status_code == 422


async def test_a_bulk_counts_by_its_entries_against_the_rate(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    limits = TenantLimits(events_per_s=10, burst_events=20)
    await server.world.registry.change_tenant(tenant, TenantChange(limits=limits))
    async with server.client(tenant) as client:
        assert (await client.post(BULK, json=numbered(21))).status_code == 413
        assert (await client.post(BULK, json=numbered(15))).status_code == 201
        assert (await client.post(BULK, json=numbered(15))).status_code == 429
        assert (await client.post(BULK, json=numbered(5))).status_code == 201
    assert len(await server.world.events(tenant)) == 20


async def test_secrets_of_a_bulk_are_masked_in_the_queue(server: IngestServer) -> None:
    tenant = await server.world.new_tenant()
    async with server.client(tenant) as client:
        await client.post(BULK, json=numbered(20, metadata={"deep": [{"apiKey": "hunter2-hunter2"}]}))
    for event in await server.world.events(tenant):
        assert event.content is not None
        content = msgspec.json.decode(event.content)
        assert content["metadata"] == {"deep": [{"apiKey": "[REDACTED]"}]}
        assert content["masked"] == [["/metadata/deep/0/apiKey", "key"]]


async def test_what_is_held_is_bounded_and_told_as_503(opened: IngestWorld) -> None:
    world = opened.with_new_queue()
    tenant = await world.new_tenant()
    async with ingest_server(world, held_bytes_max=256 * 1024) as server, server.client(tenant) as client:
        world.queue.passing.clear()
        first = asyncio.create_task(client.post(BULK, json=numbered(200)))
        await world.queue.until_sends(1)
        second = await client.post(BULK, json=numbered(200))
        assert (second.status_code, second.json()["type"]) == (503, "urn:auditlog:problem:queue-full")
        assert second.headers["retry-after"] == "1"
        world.queue.passing.set()
        assert (await first).status_code == 201
    assert len(await world.events(tenant)) == 200
