"""GET /logs and /logs/{id} on the real ledger: what is found, what is shown, and to whom."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from audit_contracts.errors import InvalidParameter
from audit_contracts.event import Changes, Content
from audit_contracts.ids import uuid7
from audit_contracts.masking_policy import MaskingPolicy, RuleChoice
from audit_contracts.ports.ledger import Head, LedgerRow
from audit_contracts.ports.tenant_directory import TenantChange
from audit_contracts.principal import DataScope, Role, TenantId
from audit_contracts.query import Sight
from audit_contracts.times import from_us
from audit_kit.clock import SystemClock
from audit_kit.event_making import masker_of
from audit_query import reading
from audit_query.parameters import question
from tests.events import NOW_US, an_event
from tests.kit_world import ManualClock
from tests.query_world import QueryWorld, open_query
from tests.services import Database

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
async def query(module_database: Database) -> AsyncIterator[QueryWorld]:
    async with open_query(module_database) as world:
        yield world


def positions(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [entry["position"] for entry in answer.json()["results"]]


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("urn:auditlog:problem:")


async def test_an_entry_is_shown_as_it_was_kept(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    event = an_event(
        source="billing",
        subject_id="subject ünïcode 𝄞",
        session_id="sess",
        ip_address="2001:db8::1",
        user_agent="agent",
        request_id="r-1",
        correlation_id="c-1",
        trace_id="t-1",
        producer_id="p-1",
        producer_seq=7,
        flags=["late"],
        changes=b'{"before": {"a" : [1.0, null]},"after":""}',
        content=b'{"metadata": {"k": 12345678901234567890, "e": {}}, "details": "text", "masked": [["/m", "jwt"]]}',
    )
    await query.append(acme, event)

    async with query.client(acme) as client:
        listed = await client.get("/logs")
        alone = await client.get(f"/logs/{event.id}")

    (entry,) = listed.json()["results"]
    recorded_at = entry.pop("recorded_at")
    assert entry == {
        "id": str(event.id),
        "tenant_id": acme,
        "timestamp": "2026-09-21T14:13:19.999000Z",
        "received_at": "2026-09-21T14:13:20Z",
        "user_id": "ada",
        "subject_id": "subject ünïcode 𝄞",
        "session_id": "sess",
        "ip_address": "2001:db8::1",
        "user_agent": "agent",
        "submitted_by": "https://issuer.example|producer-1",
        "action": "user.login",
        "resource_type": "session",
        "resource_id": "s-1",
        "severity": "INFO",
        "outcome": "success",
        "position": 0,
        "source": "billing",
        "request_id": "r-1",
        "correlation_id": "c-1",
        "trace_id": "t-1",
        "producer_id": "p-1",
        "producer_seq": 7,
        "flags": ["late"],
        "before": {"a": [1.0, None]},
        "after": "",
        "metadata": {"k": 12345678901234567890, "e": {}},
        "details": "text",
        "masked": [["/m", "jwt"]],
    }
    # The bytes of the record, not a document that means the same.
    assert b'"before":{"a" : [1.0, null]},"after":""' in listed.content
    assert alone.json() == entry | {"recorded_at": recorded_at}
    assert listed.json() == {
        "results": [alone.json()],
        "count": 1,
        "next_token": None,
        "watermark": {"position": 1, "recorded_at": recorded_at},
    }
    assert listed.headers["cache-control"] == alone.headers["cache-control"] == "private, no-store"


async def test_an_empty_log_is_an_empty_page(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    async with query.client(acme) as client:
        answer = await client.get("/logs", params={"total": "true", "include_access": "true"})
    assert answer.json() == {
        "results": [],
        "count": 0,
        "next_token": None,
        "watermark": {"position": 0, "recorded_at": None},
        "total": 0,
        "total_exact": True,
    }


async def test_each_filter_finds_what_it_names(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    odd: dict[str, Any] = {
        "user_id": "eve*-?",
        "action": "GetObject",
        "resource_type": "file",
        "resource_id": "a/b c&d=e%",
        "severity": "CRITICAL",
        "outcome": "failure",
        "session_id": "sess",
        "ip_address": "2001:db8::1",
        "request_id": "r-1",
        "correlation_id": "c-1",
        "trace_id": "t-1",
        "source": "billing",
        "submitted_by": "iss|other",
    }
    flagged = {"flags": ["late", f"conflict_of:{uuid.uuid4()}"]}
    await query.append(acme, an_event(), an_event(**odd, **flagged), an_event())

    async with query.client(acme) as client:

        async def found(**params: Any) -> list[int]:
            return positions(await client.get("/logs", params={k.replace("__", "."): v for k, v in params.items()}))

        for field, value in odd.items():
            assert await found(**{field: value}) == [1], field
            assert await found(**{f"{field}__not": value}) == [2, 0], field
        assert await found(flag="late") == await found(flag="conflict_of") == [1]
        assert await found(flag__not=flagged["flags"][1]) == [2, 0]
        assert await found(ip_address="2001:0DB8:0::1") == [1]
        assert await found(severity=["INFO", "CRITICAL"]) == [2, 1, 0]
        assert await found(severity=["INFO"], user_id="eve*-?") == []
        assert await found(action__prefix="Get") == await found(resource_id__prefix="a/b c") == [1]
        assert await found(action__prefix=["Get", "user."], sort="position") == [0, 1, 2]
        assert await found(tenant_id=acme, limit=1) == [2]


async def test_from_is_inclusive_and_to_is_not(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    second = 1_000_000
    await query.append(acme, *[an_event(timestamp_us=NOW_US + i * second) for i in range(4)])

    async with query.client(acme) as client:
        params = {"from": from_us(NOW_US + second).isoformat(), "to": "2026-09-21T16:13:23+02:00"}
        assert positions(await client.get("/logs", params=params)) == [2, 1]


@pytest.mark.parametrize(
    ("query_string", "parameter"),
    [
        ("colour=red", "colour"),
        ("user_id.prefix=a", "user_id.prefix"),
        ("USER_ID=a", "USER_ID"),
        ("user_id=", "user_id"),
        ("user_id=a%00b", "user_id"),
        ("user_id=" + "x" * 1_025, "user_id"),
        ("user_id=%ff", "query"),
        ("&".join(f"user_id=u{i}" for i in range(101)), "query"),
        ("&".join(f"user_id=u{i}" for i in range(500)), "query"),
        ("severity=info", "severity"),
        ("outcome.not=maybe", "outcome.not"),
        ("ip_address=10.0.0", "ip_address"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=5.0", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=5&limit=5", "limit"),
        ("sort=timestamp", "sort"),
        ("total=1", "total"),
        ("include_access=yes", "include_access"),
        ("from=2026-01-31", "from"),
        ("from=2026-01-31T12:00:00", "from"),
        ("to=2026-01-31T12:00:00+01:00", "to"),
        ("to=0001-01-01T00:00:00%2B14:00", "to"),
        ("from=2026-01-31T12:00:00Z&to=2026-01-31T12:00:00Z", "to"),
        ("next_token=", "next_token"),
        ("wait_ms=5", "wait_ms"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_its_name(query: QueryWorld, query_string: str, parameter: str) -> None:
    acme = await query.new_tenant()
    async with query.client(acme) as client:
        request = client.build_request("GET", "/logs")
        request.url = request.url.copy_with(query=query_string.encode())
        answer = await client.send(request)
    assert problem(answer) == (422, "invalid-parameter")
    assert answer.json()["errors"][0]["parameter"] == parameter


async def test_a_query_string_of_raw_bytes_is_refused() -> None:
    with pytest.raises(InvalidParameter) as refused:
        question("user_id=\u00e9".encode(), TenantId("acme"))
    assert refused.value.parameter == "query"


async def test_a_misspelt_parameter_is_told_what_was_meant(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    async with query.client(acme) as client:
        answer = await client.get("/logs", params={"userid": "ada"})
    assert answer.json()["detail"] == "there is no parameter of this name; is user_id meant?"


async def test_another_tenant_as_a_filter_is_refused(query: QueryWorld) -> None:
    acme, globex = await query.new_tenant(), await query.new_tenant()
    async with query.client(acme) as client:
        assert problem(await client.get("/logs", params={"tenant_id": globex})) == (403, "tenant-mismatch")


async def test_a_tenant_never_sees_another(query: QueryWorld) -> None:
    acme, globex = await query.new_tenant(), await query.new_tenant()
    event = an_event(id=uuid.uuid4(), fingerprint=b"f" * 16)
    await query.append(acme, event)

    async with query.client(acme) as mine, query.client(globex, Role.ADMIN) as theirs:
        assert (await mine.get(f"/logs/{event.id}")).status_code == 200
        assert positions(await mine.get("/logs")) == [0]
        hidden = await theirs.get(f"/logs/{event.id}")
        missing = await theirs.get(f"/logs/{uuid.uuid4()}")
        assert problem(hidden) == problem(missing) == (404, "not-found")
        assert hidden.json()["detail"] == missing.json()["detail"]
        assert (await theirs.get("/logs", params={"total": "true"})).json()["total"] == 0


async def test_the_count_of_all_matches_is_told_on_request(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    await query.append(acme, *[an_event(user_id="ada" if i % 3 else "bob") for i in range(30)])
    async with query.client(acme) as client:
        answer = (await client.get("/logs", params={"total": "true", "user_id": "bob", "limit": 4})).json()
    assert (answer["count"], answer["total"], answer["total_exact"]) == (4, 10, True)


@pytest.mark.parametrize("role", [Role.ADMIN, Role.AUDITOR, Role.USER])
async def test_every_role_but_producer_reads(query: QueryWorld, role: Role) -> None:
    acme = await query.new_tenant()
    async with query.client(acme, role) as client, query.client(acme, Role.PRODUCER) as producer:
        assert positions(await client.get("/logs")) == []
        assert problem(await producer.get("/logs")) == (403, "forbidden")
        assert problem(await producer.get(f"/logs/{uuid.uuid4()}")) == (403, "forbidden")


async def test_a_user_sees_its_own_entries_alone(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    own, other = an_event(user_id="ann"), an_event(user_id="bob", subject_id="ann", submitted_by="https://x|ann")
    await query.append(acme, own, other)

    async with query.client(acme, Role.USER, subject="ann") as client:
        assert positions(await client.get("/logs")) == [0]
        assert positions(await client.get("/logs", params={"user_id": "bob"})) == []
        assert positions(await client.get("/logs", params={"user_id.not": "ann"})) == []
        assert (await client.get("/logs", params={"total": "true"})).json()["total"] == 1
        assert (await client.get(f"/logs/{own.id}")).status_code == 200
        assert problem(await client.get(f"/logs/{other.id}", params={"wait_ms": 0})) == (404, "not-found")


async def test_a_data_scope_narrows_every_read(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    seen = an_event(resource_type="file", severity="ERROR", source="billing")
    hidden = [an_event(resource_type="file", severity="INFO", source="billing"), an_event(severity="ERROR")]
    await query.append(acme, seen, *hidden)
    scope = DataScope(resource_types=frozenset({"file"}), severities=frozenset({"ERROR"}))

    async with await query.scoped_client(acme, scope) as client:
        assert positions(await client.get("/logs")) == [0]
        assert positions(await client.get("/logs", params={"severity": "INFO"})) == []
        assert (await client.get("/logs", params={"total": "true"})).json()["total"] == 1
        assert (await client.get(f"/logs/{seen.id}")).status_code == 200
        for event in hidden:
            assert problem(await client.get(f"/logs/{event.id}", params={"wait_ms": 0})) == (404, "not-found")


async def test_what_masking_hashed_is_found_by_the_value_that_was_sent(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    policy = MaskingPolicy(rules=(RuleChoice("email", "hash"),))
    await query.registry.change_tenant(acme, TenantChange(masking=policy))
    masker = await masker_of(await query.registry.tenant(acme), query.projector_keys)
    mail = "ada@example.org"
    hashed = masker.as_kept("user_id", mail)
    assert hashed != mail
    resource = masker.as_kept("resource_id", f"mailbox/{mail}")
    await query.append(acme, an_event(user_id=hashed, resource_id=resource), an_event(user_id=mail), an_event())

    async with query.client(acme) as client, query.client(acme, Role.USER, subject=mail) as user:
        assert positions(await client.get("/logs", params={"user_id": mail})) == [1, 0]
        assert positions(await client.get("/logs", params={"user_id.not": mail})) == [2]
        assert positions(await client.get("/logs", params={"user_id": hashed})) == [0]
        assert positions(await client.get("/logs", params={"resource_id": f"mailbox/{mail}"})) == [0]
        assert positions(await user.get("/logs")) == [1, 0]


async def test_what_masking_cut_is_not_taken_for_what_was_cut_alike(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    card, other = "card 4111111111111111", "card 5500000000001111"
    masker = await masker_of(await query.registry.tenant(acme), query.projector_keys)
    await query.append(acme, an_event(resource_id=masker.as_kept("resource_id", other)))

    async with query.client(acme) as client:
        assert positions(await client.get("/logs", params={"resource_id": card})) == []


async def test_what_the_log_says_of_itself_is_left_out_unless_asked_for(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    await query.append(acme, an_event(), an_event(source="auditlog", action="auditlog.read", resource_type="route"))
    async with query.client(acme) as client:
        assert positions(await client.get("/logs")) == [0]
        assert positions(await client.get("/logs", params={"action": "auditlog.read"})) == []
        assert positions(await client.get("/logs", params={"include_access": "true"})) == [1, 0]


async def test_each_read_is_recorded_before_it_is_answered(query: QueryWorld) -> None:
    acme = await query.new_tenant()

    async def queued() -> int:
        count: int = await query.owner.fetchval("SELECT count(*) FROM auditlog_queue.messages WHERE tenant = $1", acme)
        return count

    async with query.client(acme) as client:
        await client.get("/logs", params={"user_id": "ada"})
        assert await queued() == 1
        await client.get(f"/logs/{uuid.uuid4()}")
        assert await queued() == 2
        await client.get("/logs", params={"colour": "red"})
        assert await queued() == 2


async def test_a_read_that_cannot_be_recorded_is_not_answered(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    await query.append(acme, an_event())
    await query.owner.execute("REVOKE INSERT ON auditlog_queue.messages FROM auditlog_query")
    await query.owner.execute("REVOKE INSERT (tenant, batch_id, body) ON auditlog_queue.messages FROM auditlog_query")
    try:
        async with query.client(acme) as client:
            answer = await client.get("/logs")
    finally:
        await query.owner.execute("GRANT INSERT (tenant, batch_id, body) ON auditlog_queue.messages TO auditlog_query")
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert b"results" not in answer.content


async def test_an_entry_on_its_way_is_waited_for(query: QueryWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = await query.new_tenant()
    event = an_event(id=uuid.uuid4(), fingerprint=b"f" * 16)
    young = an_event(id=uuid7(SystemClock().now_us()))

    missed = {event.id: asyncio.Event(), young.id: asyncio.Event()}
    row = query.reader.row

    async def noticed(tenant: TenantId, entry_id: uuid.UUID, *, sight: Sight) -> tuple[Head, LedgerRow | None]:
        answer = await row(tenant, entry_id, sight=sight)
        if answer[1] is None:
            missed[entry_id].set()
        return answer

    monkeypatch.setattr(query.reader, "row", noticed)
    async with query.client(acme) as client:
        asked = asyncio.create_task(client.get(f"/logs/{event.id}", params={"wait_ms": 10_000}))
        unsaid = asyncio.create_task(client.get(f"/logs/{young.id}"))
        await asyncio.gather(*(of.wait() for of in missed.values()))
        await query.append(acme, event, young)
        assert (await asked).json()["id"] == str(event.id)
        assert (await unsaid).json()["id"] == str(young.id)


async def test_an_id_that_tells_no_age_is_waited_for_a_moment(
    query: QueryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_query.reading.AGELESS_WAIT_MS", 10_000)
    acme = await query.new_tenant()
    event = an_event(id=uuid.uuid4(), fingerprint=b"f" * 16)
    missed = asyncio.Event()
    row = query.reader.row

    async def noticed(tenant: TenantId, entry_id: uuid.UUID, *, sight: Sight) -> tuple[Head, LedgerRow | None]:
        answer = await row(tenant, entry_id, sight=sight)
        missed.set()
        return answer

    monkeypatch.setattr(query.reader, "row", noticed)
    async with query.client(acme) as client:
        asked = asyncio.create_task(client.get(f"/logs/{event.id}"))
        await missed.wait()
        await query.append(acme, event)
        assert (await asked).json()["id"] == str(event.id)


async def test_an_old_id_is_not_waited_for(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    async with query.client(acme) as client:
        answer = await asyncio.wait_for(client.get(f"/logs/{uuid7(NOW_US)}"), 0.9)
        assert problem(answer) == (404, "not-found")
        assert problem(await client.get(f"/logs/{uuid.uuid4()}", params={"wait_ms": 30})) == (404, "not-found")


@pytest.mark.parametrize("value", ["-1", "10001", "1.5", "", "ten"])
async def test_a_wait_out_of_bounds_is_refused(query: QueryWorld, value: str) -> None:
    acme = await query.new_tenant()
    async with query.client(acme) as client:
        answer = await client.get(f"/logs/{uuid.uuid4()}", params={"wait_ms": value})
        assert problem(answer) == (422, "invalid-parameter")
        unknown = await client.get(f"/logs/{uuid.uuid4()}", params={"limit": 5})
        assert unknown.json()["errors"][0]["parameter"] == "limit"


@pytest.mark.parametrize("text", ["abc", "1", "%7B0197c1de-6f3a-7cc2-9d44-0f4be4d3a6a1%7D", "urn:uuid:" + "0" * 32])
async def test_what_is_no_id_is_not_found(query: QueryWorld, text: str) -> None:
    acme = await query.new_tenant()
    async with query.client(acme) as client:
        assert problem(await client.get(f"/logs/{text}")) == (404, "not-found")


async def test_an_id_is_found_in_every_spelling(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    event = an_event()
    await query.append(acme, event)
    async with query.client(acme) as client:
        for text in (str(event.id), str(event.id).upper(), event.id.hex):
            assert (await client.get(f"/logs/{text}")).json()["id"] == str(event.id)


async def test_an_entry_can_be_neither_changed_nor_deleted(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    event = an_event()
    await query.append(acme, event)
    async with query.client(acme, Role.ADMIN) as client:
        for method in ("PUT", "PATCH", "DELETE", "POST"):
            answer = await client.request(method, f"/logs/{event.id}")
            assert problem(answer) == (405, "method-not-allowed")
            assert "GET" in answer.headers["allow"]
        assert (await client.get(f"/logs/{event.id}")).status_code == 200


async def test_an_entry_whose_owners_key_is_destroyed_shows_what_is_left_of_it(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    gone, kept = an_event(user_id="ada"), an_event(user_id="bob")
    await query.append(acme, gone, kept)
    key = query.owner_keys[acme, "ada"]
    await query.owner.execute("DELETE FROM auditlog.owner_keys WHERE tenant = $1 AND key_id = $2", acme, key.key_id)

    async with query.client(acme) as client:
        erased = (await client.get(f"/logs/{gone.id}")).json()
        page = (await client.get("/logs")).json()

    assert erased["erased"] == ["resource", "identity", "changes", "content"]
    assert (erased["action"], erased["position"]) == ("user.login", 0)
    assert not {"user_id", "resource_id", "submitted_by", "metadata", "details"} & erased.keys()
    assert page["results"][0]["user_id"] == "bob"
    assert "erased" not in page["results"][0]
    assert page["results"][1] == erased


async def test_an_erased_owners_entries_are_unreadable_within_a_minute(database: Database) -> None:
    clock = ManualClock()
    async with open_query(database, clock=clock) as query:
        acme = await query.new_tenant()
        await query.append(acme, an_event(user_id="ada"))
        async with query.client(acme) as client:
            before = (await client.get("/logs")).json()["results"][0]
            await query.owner.execute("DELETE FROM auditlog.owner_keys WHERE tenant = $1", acme)
            clock.advance(60)
            after = (await client.get("/logs")).json()["results"][0]
    assert before["user_id"] == "ada"
    assert "user_id" not in after
    assert "identity" in after["erased"]


async def test_a_record_that_was_altered_is_never_shown(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    event = an_event(content=msgspec.json.encode(Content(details="as it was")))
    await query.append(acme, event)
    await query.owner.execute(
        "UPDATE auditlog.entries SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE tenant = $1", acme
    )
    async with query.client(acme) as client:
        answer = await client.get(f"/logs/{event.id}")
    assert problem(answer) == (500, "internal-error")


async def test_a_large_page_is_whole_and_in_order(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    changes = msgspec.json.encode(Changes(before=["x" * 200]))
    await query.append(acme, *[an_event(user_id=f"u{i % 40}", changes=changes) for i in range(1_000)])
    async with query.client(acme) as client:
        answer = await client.get("/logs", params={"limit": 1_000})
    assert positions(answer) == list(range(999, -1, -1))
    assert answer.json()["next_token"] is None
    assert {entry["user_id"] for entry in answer.json()["results"]} == {f"u{i}" for i in range(40)}


async def test_the_page_of_a_rare_filter_may_be_empty_and_its_list_is_whole(
    query: QueryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = await query.new_tenant()
    await query.append(acme, *[an_event(severity="CRITICAL" if i < 3 else "INFO") for i in range(500)])
    monkeypatch.setattr(reading, "BUDGET", 100)
    monkeypatch.setattr(reading, "SLICES_S", 0)
    async with query.client(acme) as client:
        params: dict[str, str | int] = {"severity": "CRITICAL", "limit": 2}
        found, counts, token = list[int](), list[int](), ""
        while token is not None:
            answer = await client.get("/logs", params=params | ({"next_token": token} if token else {}))
            found += positions(answer)
            counts.append(answer.json()["count"])
            token = answer.json()["next_token"]
    assert found == [2, 1, 0]
    assert counts[0] == 0
