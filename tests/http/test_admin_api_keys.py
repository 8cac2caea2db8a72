"""API keys over HTTP: shown once, never more than their maker, dead when revoked; and the operator's first one."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audit_admin.operator import bootstrap_operator
from audit_contracts.principal import Permission, Role
from tests.admin_world import OPERATOR, AdminWorld, admin_world, changes
from tests.services import Database

KEY_TEXT = re.compile(r"alk\.acme\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}")


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


async def make(world: AdminWorld, token: str | None = None, **body: Any) -> Any:
    answer = await world.call(
        "POST", "/tenants/acme/keys", {"name": "a key", "role": "admin"} | body, token=token or world.token("acme")
    )
    return answer.json() | {"status_code": answer.status_code}


async def test_a_key_is_shown_once_and_kept_as_a_hash(world: AdminWorld) -> None:
    answer = await world.call(
        "POST", "/tenants/acme/keys", {"name": "billing", "role": "producer"}, token=world.token("acme")
    )
    assert answer.status_code == 201
    made = answer.json()
    text = made.pop("api_key")
    assert KEY_TEXT.fullmatch(text)
    assert answer.headers["Location"] == f"/api/v1/tenants/acme/keys/{made['key_id']}"
    listed = (await world.call("GET", "/tenants/acme/keys", token=world.token("acme"))).json()["results"]
    assert made in listed
    secret = text.rpartition(".")[2]
    assert secret not in str(listed)
    dump = str(await world.owner.fetch("SELECT k::text FROM auditlog.api_keys k"))
    dump += str(await world.owner.fetch("SELECT encode(body, 'escape') FROM auditlog.outbox"))
    await world.relay.relay()
    dump += str(await world.owner.fetch("SELECT encode(body, 'escape') FROM auditlog_queue.messages"))
    assert secret not in dump
    for event in await world.recorded("acme"):
        assert secret not in repr(event)


async def test_a_key_enters_with_the_rights_it_was_made_with(world: AdminWorld) -> None:
    admin = await make(world)
    narrow = await make(world, scope=["tenant:read"])
    auditor = await make(world, role="auditor")
    paths = [("GET", "/tenants/acme", None), ("PATCH", "/tenants/acme", {"name": "Acme"})]
    for made, statuses in ((admin, [200, 200]), (narrow, [200, 403]), (auditor, [403, 403])):
        got = [(await world.call(*path, token=made["api_key"])).status_code for path in paths]
        assert got == statuses


async def test_a_revoked_key_is_dead_at_once_here_and_stays_listed(world: AdminWorld) -> None:
    made = await make(world)
    assert (await world.call("GET", "/tenants/acme", token=made["api_key"])).status_code == 200
    path = f"/tenants/acme/keys/{made['key_id']}"
    revoked = await world.call("DELETE", path, token=world.token("acme"))
    assert revoked.json()["revoked_at"] is not None
    assert (await world.call("GET", "/tenants/acme", token=made["api_key"])).status_code == 401
    assert (await world.call("DELETE", path, token=world.token("acme"))).json() == revoked.json()
    listed = (await world.call("GET", "/tenants/acme/keys", token=world.token("acme"))).json()["results"]
    assert revoked.json() in listed


async def test_a_key_ends_when_it_said(world: AdminWorld) -> None:
    now = datetime.fromtimestamp(world.clock.now_us() / 1e6, UTC)
    made = await make(world, expires_at=(now + timedelta(hours=1)).isoformat())
    assert (await world.call("GET", "/tenants/acme", token=made["api_key"])).status_code == 200
    world.clock.advance(3_600)
    assert (await world.call("GET", "/tenants/acme", token=made["api_key"])).status_code == 401


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"role": "root"}, "/role"),
        ({"name": ""}, "/name"),
        ({"scope": []}, "/scope"),
        ({"scope": ["logs:delete"]}, "/scope/0"),
        ({"role": "producer", "scope": ["logs:read"]}, "/scope"),
        ({"scope": ["tenants:administer"]}, "/scope"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2999-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-12:00"}, "/expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "/expires_at"),
        ({"data_scope": {"users": ["ada"]}}, "/data_scope/users"),
        ({"data_scope": {"severities": ["LOUD"]}}, "/data_scope/severities/0"),
        ({"data_scope": {"sources": ["a b"]}}, "/data_scope/sources/0"),
        ({"secret": "mine"}, "/secret"),
    ],
)
async def test_a_key_that_breaks_a_rule_is_refused_with_its_place(
    unchanged: AdminWorld, body: dict[str, Any], pointer: str
) -> None:
    answer = await make(unchanged, **body)
    assert answer["status_code"] == 422, answer
    assert [error["pointer"] for error in answer["errors"]] == [pointer]


async def test_nobody_makes_a_key_with_a_right_that_they_lack(unchanged: AdminWorld) -> None:
    cannot_read = unchanged.token(
        "acme", scope={Permission.TENANT_READ, Permission.TENANT_WRITE, Permission.LOGS_WRITE}
    )
    for body, status in (
        ({"role": "admin"}, 403),
        ({"role": "auditor"}, 403),
        ({"role": "user"}, 403),
        ({"role": "producer"}, 201),
        ({"role": "user", "scope": ["logs:write"]}, 201),
        ({"role": "admin", "scope": ["tenant:write"]}, 201),
    ):
        assert (await make(unchanged, cannot_read, **body))["status_code"] == status, body
    only_operates = unchanged.token("operator", scope={Permission.TENANT_READ, Permission.TENANT_WRITE})
    answer = await unchanged.call("POST", "/tenants/operator/keys", {"name": "x", "role": "admin"}, token=only_operates)
    assert answer.status_code == 403


async def test_nobody_makes_a_key_that_sees_more_than_they_do(unchanged: AdminWorld) -> None:
    scope = {"resource_types": ["invoice", "order"], "severities": ["INFO"]}
    narrowed = (await make(unchanged, data_scope=scope))["api_key"]
    for wanted, status in (
        ({}, 403),
        ({"resource_types": ["invoice"]}, 403),
        ({"resource_types": ["invoice", "user"], "severities": ["INFO"]}, 403),
        ({"resource_types": ["invoice"], "severities": ["INFO", "ERROR"]}, 403),
        (scope, 201),
        ({"resource_types": [], "severities": []}, 201),
        ({"resource_types": ["order"], "severities": ["INFO"], "sources": ["shop"]}, 201),
    ):
        assert (await make(unchanged, narrowed, data_scope=wanted))["status_code"] == status, wanted


async def test_not_even_the_operator_makes_lists_or_revokes_another_tenants_keys(world: AdminWorld) -> None:
    made = await make(world)
    for method, rest, body in (
        ("GET", "", None),
        ("POST", "", {"name": "x", "role": "admin"}),
        ("DELETE", f"/{made['key_id']}", None),
    ):
        for tenant in ("acme", "nobody"):
            answer = await world.call(method, f"/tenants/{tenant}/keys{rest}", body, token=world.operator_key)
            assert answer.status_code == 403
    assert (await world.call("GET", "/tenants/acme", token=made["api_key"])).status_code == 200


async def test_a_key_of_another_tenant_cannot_be_revoked_by_its_id(world: AdminWorld) -> None:
    made = await make(world)
    path = f"/tenants/globex/keys/{made['key_id']}"
    assert (await world.call("DELETE", path, token=world.token("globex"))).status_code == 404
    assert (await world.call("GET", "/tenants/acme", token=made["api_key"])).status_code == 200


async def test_keys_are_listed_newest_first_page_by_page(world: AdminWorld) -> None:
    for i in range(4):
        world.clock.advance(1)
        await make(world, name=f"key {i}")
    listed: list[str] = []
    query = "?limit=2"
    while True:
        page = (await world.call("GET", f"/tenants/acme/keys{query}", token=world.token("acme"))).json()
        listed += [key["name"] for key in page["results"]]
        if page["next_token"] is None:
            break
        query = f"?limit=2&next_token={page['next_token']}"
    assert listed == ["key 3", "key 2", "key 1", "key 0", "first key"]
    bad = await world.call("GET", "/tenants/acme/keys?next_token=x", token=world.token("acme"))
    assert bad.status_code == 400


async def test_making_and_revoking_is_recorded_without_the_secret(world: AdminWorld) -> None:
    made = await make(world, role="auditor", scope=["logs:read"], data_scope={"sources": ["shop"]})
    await world.call("DELETE", f"/tenants/acme/keys/{made['key_id']}", token=world.token("acme", subject="bob"))
    created, revoked = await world.recorded("acme")
    assert (created.action, created.user_id) == ("auditlog.change.create", "ada")
    assert (revoked.action, revoked.user_id) == ("auditlog.change.revoke", "bob")
    assert {event.resource_id for event in (created, revoked)} == {made["key_id"]}
    after = changes(created).after
    assert (after["role"], after["scope"], after["data_scope"]) == ("auditor", ["logs:read"], {"sources": ["shop"]})
    assert set(after) == set(made) - {"api_key", "status_code"}


async def test_a_new_database_has_one_operator_whose_key_is_told_once(world: AdminWorld) -> None:
    again = await asyncio.gather(*(bootstrap_operator(world.registry, clock=world.clock) for _ in range(3)))
    assert again == [None] * 3
    [row] = await world.owner.fetch("SELECT * FROM auditlog.api_keys WHERE tenant = 'operator'")
    assert (row["role"], row["expires_at"], row["scope"]) == (Role.ADMIN, None, None)
    assert (await world.call("GET", "/tenants/operator", token=world.operator_key)).json()["name"] == "Operator"


async def test_of_many_that_start_together_one_gets_the_operators_key(database: Database) -> None:
    async with admin_world(database) as world:
        await world.owner.execute("TRUNCATE auditlog.tenants, auditlog.api_keys, auditlog.tenant_keys, auditlog.heads")
        keys = await asyncio.gather(*(bootstrap_operator(world.registry, clock=world.clock) for _ in range(4)))
        [key] = [key for key in keys if key is not None]
        rows = await world.owner.fetch("SELECT secret_hash FROM auditlog.api_keys WHERE tenant = $1", OPERATOR)
        assert len(rows) == 1
        assert hashlib.sha256(key.encode()).digest() != rows[0]["secret_hash"], "the hash is of the secret alone"
        assert (await world.call("GET", "/tenants", token=key)).status_code == 200
