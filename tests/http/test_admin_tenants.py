"""Tenants over HTTP: who sees and changes which, what is refused, and what is recorded of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openapi_spec_validator
import pytest

from audit_contracts.ports.tenant_directory import IngestMode, TenantLimits
from audit_contracts.principal import Permission, Role, TenantId
from audit_kit.docs import openapi_document
from tests.admin_world import AdminWorld, admin_world, changes
from tests.services import Database


@pytest.fixture(scope="module")
async def unchanged(module_database: Database) -> AsyncIterator[AdminWorld]:
    """A world for tests that change nothing in it."""
    async with admin_world(module_database) as opened:
        await opened.new_tenant("acme")
        yield opened


@pytest.fixture
async def world(database: Database) -> AsyncIterator[AdminWorld]:
    async with admin_world(database) as opened:
        await opened.new_tenant("acme")
        await opened.new_tenant("globex")
        await opened.recorded("nobody")
        yield opened


async def test_a_new_tenant_can_be_entered_with_its_first_key_alone(world: AdminWorld) -> None:
    answer = await world.call(
        "POST", "/tenants", {"tenant_id": "initech", "name": " Initech "}, token=world.operator_key
    )
    created = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == "/api/v1/tenants/initech"
    assert answer.headers["ETag"] == '"1"'
    first = created.pop("first_key")
    assert {name: created[name] for name in created if name != "created_at"} == {
        "tenant_id": "initech",
        "name": "Initech",
        "status": "active",
        "ingest": "open",
        "masking": {"keys": [], "rules": [], "patterns": []},
        "limits": {"events_per_s": 5_000, "burst_events": 50_000},
        "retention_days": 365,
        "version": 1,
    }
    shown = await world.call("GET", "/tenants/initech", token=first["api_key"])
    assert shown.json() == created
    world.clock.advance(7 * 86_400)
    assert (await world.call("GET", "/tenants/initech", token=first["api_key"])).status_code == 401


async def test_a_lost_answer_to_a_creation_is_given_again_and_its_key_is_dead(world: AdminWorld) -> None:
    body = {"tenant_id": "initech", "name": "Initech"}
    first, second = [
        (await world.call("POST", "/tenants", body, token=world.operator_key)).json()["first_key"]["api_key"]
        for _ in range(2)
    ]
    assert (await world.call("GET", "/tenants/initech", token=first)).status_code == 401
    assert (await world.call("GET", "/tenants/initech", token=second)).status_code == 200
    recorded = [event.action for event in await world.recorded("initech")]
    assert recorded.count("auditlog.change.create") == 2


async def test_an_id_that_is_taken_is_a_conflict_for_anybody_else(world: AdminWorld) -> None:
    acme = {"tenant_id": "acme", "name": "Acme"}
    other = world.token("operator", subject="somebody-else")
    for body, token in ((acme, other), (acme | {"name": "Other"}, world.operator_key)):
        answer = await world.call("POST", "/tenants", body, token=token)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:auditlog:problem:already-exists")
    [first] = (await world.call("GET", "/tenants/acme/keys", token=world.token("acme"))).json()["results"]
    await world.call("DELETE", f"/tenants/acme/keys/{first['key_id']}", token=world.token("acme"))
    assert (await world.call("POST", "/tenants", acme, token=world.operator_key)).status_code == 409
    operator = {"tenant_id": "operator", "name": "Operator"}
    assert (await world.call("POST", "/tenants", operator, token=world.operator_key)).status_code == 409


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"tenant_id": "Acme", "name": "x"}, "/tenant_id"),
        ({"tenant_id": "-acme", "name": "x"}, "/tenant_id"),
        ({"tenant_id": "a" * 64, "name": "x"}, "/tenant_id"),
        ({"tenant_id": "acme\n", "name": "x"}, "/tenant_id"),
        ({"tenant_id": "ok", "name": " "}, "/name"),
        ({"tenant_id": "ok", "name": "a\u0000b"}, "/name"),
        ({"tenant_id": "ok", "name": "a" * 201}, "/name"),
        ({"tenant_id": "ok"}, "/name"),
        ({"tenant_id": "ok", "name": "x", "status": "active"}, "/status"),
    ],
)
async def test_a_tenant_that_breaks_a_bound_is_refused_with_its_place(
    unchanged: AdminWorld, body: object, pointer: str
) -> None:
    answer = await unchanged.call("POST", "/tenants", body, token=unchanged.operator_key)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_only_the_operators_admins_create_suspend_and_delete(world: AdminWorld) -> None:
    narrowed = world.token("operator", scope={Permission.TENANT_READ, Permission.TENANT_WRITE})
    for token in (world.token("acme"), world.token("operator", Role.AUDITOR), narrowed):
        answer = await world.call("POST", "/tenants", {"tenant_id": "mine", "name": "Mine"}, token=token)
        assert answer.status_code == 403
    for body in ({"status": "suspended"}, {"ingest": "blocked"}, {"limits": {"events_per_s": 1_000_000}}):
        answer = await world.call("PATCH", "/tenants/acme", body, token=world.token("acme"))
        assert answer.status_code == 403, body
    assert (await world.call("DELETE", "/tenants/acme", token=world.token("acme"))).status_code == 403
    assert (await world.call("GET", "/tenants/acme", token=world.token("acme"))).json()["version"] == 1


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.USER, Role.PRODUCER])
async def test_only_admins_see_or_change_their_tenant(unchanged: AdminWorld, role: Role) -> None:
    for method, path, body in (
        ("GET", "/tenants", None),
        ("GET", "/tenants/acme", None),
        ("PATCH", "/tenants/acme", {"name": "x"}),
        ("DELETE", "/tenants/acme", None),
        ("GET", "/tenants/acme/keys", None),
        ("POST", "/tenants/acme/keys", {"name": "x", "role": "user"}),
        ("POST", "/tenants/acme/key-rotations", None),
    ):
        answer = await unchanged.call(method, path, body, token=unchanged.token("acme", role))
        assert answer.status_code == 403, (method, path)
        assert (await unchanged.call(method, path, body, token=None)).status_code == 401


async def test_a_tenant_never_sees_or_changes_another_and_the_attempt_is_recorded(world: AdminWorld) -> None:
    before = (await world.call("GET", "/tenants/globex", token=world.token("globex"))).json()
    [key] = (await world.call("GET", "/tenants/globex/keys", token=world.token("globex"))).json()["results"]
    routes: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("PATCH", "", {"name": "Mine now"}),
        ("PATCH", "", {"status": "suspended"}),
        ("DELETE", "", None),
        ("GET", "/keys", None),
        ("POST", "/keys", {"name": "x", "role": "admin"}),
        ("DELETE", f"/keys/{key['key_id']}", None),
        ("POST", "/key-rotations", None),
    ]
    for method, rest, body in routes:
        answers = [
            await world.call(method, f"/tenants/{tenant}{rest}", body, token=world.token("acme"))
            for tenant in ("globex", "operator", "nobody", "NO-SUCH%20id")
        ]
        seen = [(a.status_code, a.json() | {"instance": "", "trace_id": ""}) for a in answers]
        assert seen[0][0] == 404
        assert all(one == seen[0] for one in seen), "the answers tell which tenants exist"
        assert answers[-1].json()["instance"] == f"/api/v1/tenants/NO-SUCH%20id{rest}"
    listed = (await world.call("GET", "/tenants", token=world.token("acme"))).json()
    assert [tenant["tenant_id"] for tenant in listed["results"]] == ["acme"]
    assert (await world.call("GET", "/tenants/globex", token=world.token("globex"))).json() == before
    [key] = (await world.call("GET", "/tenants/globex/keys", token=world.token("globex"))).json()["results"]
    assert key["revoked_at"] is None
    await world.access.flush()
    refused = await world.recorded("acme")
    assert {event.resource_id for event in refused if event.action == "auditlog.refused"} == {
        f"{method} /api/v1/tenants/{{tenant_id}}{rest if 'keys/' not in rest else '/keys/{key_id}'}"
        for method, rest, _ in routes
    }


async def test_the_operator_sees_every_tenant_page_by_page(world: AdminWorld) -> None:
    listed: list[str] = []
    query = "?limit=2"
    while True:
        page = (await world.call("GET", f"/tenants{query}", token=world.operator_key)).json()
        assert page["count"] == len(page["results"]) <= 2
        listed += [tenant["tenant_id"] for tenant in page["results"]]
        if "next_token" not in page:
            break
        query = f"?limit=2&next_token={page['next_token']}"
    assert listed == ["acme", "globex", "operator"]


@pytest.mark.parametrize(("query", "status"), [("?limit=0", 422), ("?offset=1", 422), ("?next_token=No!", 400)])
async def test_a_list_refuses_what_it_does_not_know(unchanged: AdminWorld, query: str, status: int) -> None:
    assert (await unchanged.call("GET", f"/tenants{query}", token=unchanged.operator_key)).status_code == status


async def test_a_patch_sets_what_it_names_and_records_before_and_after(world: AdminWorld) -> None:
    masking = {
        "keys": [{"key": "badge number", "mode": "redact"}],
        "rules": [{"rule": "email", "mode": "hash"}],
        "patterns": [{"name": "employee", "pattern": "E-[0-9]{6}", "mode": "last4"}],
    }
    answer = await world.call(
        "PATCH", "/tenants/acme", {"retention_days": 30, "masking": masking}, token=world.token("acme")
    )
    assert answer.status_code == 200
    assert answer.headers["ETag"] == '"2"'
    assert (answer.json()["retention_days"], answer.json()["masking"], answer.json()["name"]) == (30, masking, "Acme")
    assert (await world.call("GET", "/tenants/acme", token=world.token("acme"))).json() == answer.json()

    [event] = await world.recorded("acme")
    assert (event.action, event.resource_type, event.resource_id) == ("auditlog.change.update", "tenant", "acme")
    assert (event.user_id, event.submitted_by, event.source) == ("ada", "urn:auditlog:dev|ada", "auditlog")
    assert changes(event).before == {
        "masking": {"keys": [], "rules": [], "patterns": []},
        "retention_days": 365,
        "version": 1,
    }
    assert changes(event).after == {"masking": masking, "retention_days": 30, "version": 2}


async def test_the_operator_sets_limits_and_blocks_ingest(world: AdminWorld) -> None:
    body = {"limits": {"events_per_s": 10}, "ingest": "blocked"}
    answer = await world.call("PATCH", "/tenants/acme", body, token=world.operator_key)
    assert answer.status_code == 200
    assert answer.json()["limits"] == {"events_per_s": 10, "burst_events": 50_000}
    assert (await world.registry.tenant(TenantId("acme"))).limits == TenantLimits(events_per_s=10)
    assert (await world.registry.tenant(TenantId("acme"))).ingest is IngestMode.BLOCKED


@pytest.mark.parametrize("tenant", ["nobody", "NO-SUCH%20id", "a" * 64, "%00", "..%2Facme"])
async def test_what_is_no_tenant_is_not_found_for_the_operator_either(unchanged: AdminWorld, tenant: str) -> None:
    for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
        answer = await unchanged.call(method, f"/tenants/{tenant}", body, token=unchanged.operator_key)
        assert answer.status_code == 404


async def test_admin_is_ready_while_it_reaches_the_tenants(unchanged: AdminWorld) -> None:
    [check] = unchanged.part.ready_checks
    await check.check()


def test_the_contract_of_admin_is_valid_and_a_patch_has_no_defaults(unchanged: AdminWorld) -> None:
    document = json.loads(json.dumps(openapi_document([unchanged.part])))
    openapi_spec_validator.validate(document)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == 10
    assert all(operation["summary"] for operation in operations)
    patch = document["components"]["schemas"]["TenantPatchIn"]
    assert not [field for field in patch["properties"].values() if "default" in field]


async def test_what_the_operator_changes_is_recorded_in_both_logs(world: AdminWorld) -> None:
    await world.call("PATCH", "/tenants/acme", {"status": "suspended"}, token=world.operator_key)
    await world.call("POST", "/tenants/globex/key-rotations", token=world.operator_key)
    await world.call("DELETE", "/tenants/acme", token=world.operator_key)
    await world.relay.relay()
    deliveries = await world.receiver.receive(messages_max=100, wait_s=0, visibility_s=0)
    assert {delivery.tenant for delivery in deliveries} == {"acme", "globex", "operator"}
    seen = [event.action for event in await world.recorded("acme")]
    assert seen == ["auditlog.change.update", "auditlog.change.delete"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, ""),
        ({"name": None}, "/name"),
        ({"status": "deleted"}, "/status"),
        ({"retention_days": 0}, "/retention_days"),
        ({"retention_days": "30"}, "/retention_days"),
        ({"retention_days": True}, "/retention_days"),
        ({"limits": {"events_per_s": 0}}, "/limits/events_per_s"),
        ({"tenant_id": "other"}, "/tenant_id"),
        ({"masking": {"rules": [{"rule": "jwt", "mode": "last4"}]}}, "/masking/rules/0/mode"),
        ({"masking": {"patterns": [{"name": "x", "pattern": "("}]}}, "/masking/patterns/0/pattern"),
        ({"masking": {"keys": [{"key": "pin", "mode": "off"}]}}, "/masking/keys/0/mode"),
        ({"masking": {"disabled": True}}, "/masking/disabled"),
    ],
)
async def test_a_patch_that_breaks_a_rule_changes_nothing(unchanged: AdminWorld, body: object, pointer: str) -> None:
    answer = await unchanged.call("PATCH", "/tenants/acme", body, token=unchanged.operator_key)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert (await unchanged.call("GET", "/tenants/acme", token=unchanged.operator_key)).json()["version"] == 1


async def test_a_change_of_a_version_that_is_past_is_refused(world: AdminWorld) -> None:
    for etag, status in (('"1"', 200), ('"1"', 412), ("*", 200), ('"3"', 200), ("3", 422), ('W/"4"', 422)):
        answer = await world.call(
            "PATCH", "/tenants/acme", {"name": f"Acme {etag}"}, token=world.operator_key, If_Match=etag
        )
        assert answer.status_code == status, etag
    assert (await world.call("DELETE", "/tenants/acme", token=world.operator_key, If_Match='"1"')).status_code == 412


async def test_a_suspended_tenant_is_refused_at_once_with_the_reason_and_comes_back(world: AdminWorld) -> None:
    token = world.token("acme")
    assert (await world.call("GET", "/tenants/acme", token=token)).status_code == 200
    await world.call("PATCH", "/tenants/acme", {"status": "suspended"}, token=world.operator_key)
    refused = await world.call("GET", "/tenants/acme", token=token)
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:auditlog:problem:tenant-suspended")
    await world.call("PATCH", "/tenants/acme", {"status": "active"}, token=world.operator_key)
    assert (await world.call("GET", "/tenants/acme", token=token)).status_code == 200


async def test_a_tenant_is_deleted_only_when_suspended_and_for_good(world: AdminWorld) -> None:
    early = await world.call("DELETE", "/tenants/acme", token=world.operator_key)
    assert (early.status_code, early.json()["type"]) == (409, "urn:auditlog:problem:wrong-state")
    await world.call("PATCH", "/tenants/acme", {"status": "suspended"}, token=world.operator_key)
    deleted = await world.call("DELETE", "/tenants/acme", token=world.operator_key)
    assert (deleted.status_code, deleted.json()["status"]) == (200, "deleted")
    assert (await world.call("GET", "/tenants/acme", token=world.operator_key)).json() == deleted.json()
    assert (await world.call("GET", "/tenants/acme", token=world.token("acme"))).status_code == 403
    for method, path, body in (
        ("PATCH", "/tenants/acme", {"status": "active"}),
        ("DELETE", "/tenants/acme", None),
        ("POST", "/tenants/acme/key-rotations", None),
    ):
        assert (await world.call(method, path, body, token=world.operator_key)).status_code == 404
    again = await world.call("POST", "/tenants", {"tenant_id": "acme", "name": "Acme"}, token=world.operator_key)
    assert again.status_code == 409


async def test_the_operator_cannot_lock_itself_out(world: AdminWorld) -> None:
    for method, body in (("PATCH", {"status": "suspended"}), ("DELETE", None)):
        answer = await world.call(method, "/tenants/operator", body, token=world.operator_key)
        assert answer.status_code == 409
        assert "nobody could" in answer.json()["detail"]


async def test_a_rotation_adds_a_generation_and_says_which(world: AdminWorld) -> None:
    answer = await world.call("POST", "/tenants/acme/key-rotations", token=world.token("acme"))
    assert answer.status_code == 201
    assert [(key["purpose"], key["generation"]) for key in answer.json()["rotated"]] == [
        ("cursor", 2),
        ("owner", 2),
        ("receipt", 2),
        ("transport", 2),
    ]
    [event] = await world.recorded("acme")
    assert (event.action, changes(event).after) == ("auditlog.change.rotate", answer.json())
