"""Development mode: who is given a token, who is not, and where the mode does not exist."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from audit_admin.part import DevelopmentRefused, admin_part
from audit_kit.directory import CachedDirectory
from tests.admin_world import AdminWorld, admin_world
from tests.services import Database

ADA = {"tenant_id": "acme", "user_id": "ada", "access_level": "admin"}


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
        yield opened


async def test_whoever_asks_is_given_a_token_that_works(world: AdminWorld) -> None:
    answer = await world.call("POST", "/mock-login", ADA, token=None)
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "token_type"}
    assert answer.json()["token_type"] == "bearer"
    assert (await world.call("GET", "/tenants/acme", token=answer.json()["access_token"])).status_code == 200
    operator = await world.call("POST", "/mock-login", ADA | {"tenant_id": "operator"}, token=None)
    listed = await world.call("GET", "/tenants", token=operator.json()["access_token"])
    assert [tenant["tenant_id"] for tenant in listed.json()["results"]] == ["acme", "operator"]


@pytest.mark.parametrize("role", ["auditor", "user", "producer"])
async def test_a_token_has_the_rights_of_the_level_that_was_asked_for(unchanged: AdminWorld, role: str) -> None:
    token = (await unchanged.call("POST", "/mock-login", ADA | {"access_level": role}, token=None)).json()[
        "access_token"
    ]
    assert (await unchanged.call("GET", "/tenants/acme", token=token)).status_code == 403


async def test_nobody_is_somebody_of_a_tenant_that_is_not_there(world: AdminWorld) -> None:
    assert (await world.call("POST", "/mock-login", ADA | {"tenant_id": "nobody"}, token=None)).status_code == 404
    await world.call("PATCH", "/tenants/acme", {"status": "suspended"}, token=world.operator_key)
    await world.call("DELETE", "/tenants/acme", token=world.operator_key)
    assert (await world.call("POST", "/mock-login", ADA, token=None)).status_code == 404


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]", "[::1]:8080"])
async def test_this_machines_own_names_are_answered(unchanged: AdminWorld, host: str) -> None:
    assert (await unchanged.call("POST", "/mock-login", ADA, token=None, Host=host)).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "localhost.attacker.example",
        "127.0.0.1.nip.io:8080",
        "attacker.example:8080@localhost",
        "0.0.0.0:8080",
        "127.0.0.2",
        "localhost:",
        "localhost:8080, attacker.example",
        "",
    ],
)
async def test_a_name_that_was_rebound_to_this_machine_is_refused(unchanged: AdminWorld, host: str) -> None:
    answer = await unchanged.call("POST", "/mock-login", ADA, token=None, Host=host)
    assert answer.status_code == 403
    assert "access_token" not in answer.text


async def test_a_form_of_another_page_gets_no_token(unchanged: AdminWorld) -> None:
    # What a page of another origin may send without asking first.
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None):
        headers = {} if content_type is None else {"Content-Type": content_type}
        body = b'{"tenant_id":"acme","user_id":"ada","access_level":"admin"}'
        answer = await unchanged.http.post("/api/v1/mock-login", content=body, headers=headers)
        assert answer.status_code == 415, content_type
    preflight = await unchanged.http.options(
        "/api/v1/mock-login", headers={"Origin": "https://attacker.example", "Access-Control-Request-Method": "POST"}
    )
    assert not [name for name in preflight.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("body", [{}, ADA | {"access_level": "root"}, ADA | {"user_id": ""}, ADA | {"scope": "x"}])
async def test_a_login_that_is_none_is_refused(unchanged: AdminWorld, body: object) -> None:
    assert (await unchanged.call("POST", "/mock-login", body, token=None)).status_code == 422


async def test_without_development_mode_there_is_no_login(unchanged: AdminWorld) -> None:
    part = admin_part(
        registry=unchanged.registry,
        directory=CachedDirectory(unchanged.registry, clock=unchanged.clock),
        keyring=unchanged.keyring,
        queue=unchanged.receiver,
        access=unchanged.access,
        clock=unchanged.clock,
    )
    assert not [route for router in part.routers for route in router.routes if "mock-login" in str(route)]


async def test_development_mode_is_refused_on_any_other_database(world: AdminWorld) -> None:
    for mark in ("DELETE FROM auditlog.facts", "INSERT INTO auditlog.facts VALUES ('mode', 'production')"):
        await world.owner.execute(mark)
        with pytest.raises(DevelopmentRefused):
            async with world.part.opened():
                pytest.fail("it opened")
