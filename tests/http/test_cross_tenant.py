"""
Two tenants, every route of all parts together, no leak: the cases are held against the gate's own table of routes.

A route that is added without a case here fails the tests.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest

from audit_contracts.ids import uuid7
from audit_contracts.principal import OPERATOR_TENANT, Permission, Role, TenantId
from audit_kit.clock import SystemClock
from audit_kit.policies import Access, Public
from tests.http.tenant_cases import ALLOWED, CASES, LOGS, PUBLIC, Ask, Case, Known, entry, own
from tests.services import Database, short_folder
from tests.whole_world import WholeWorld, whole_world


@dataclass(frozen=True)
class Tenant:
    """A tenant with a log, and a credential of each kind for each role."""

    known: Known
    credentials: Mapping[Role, tuple[str, str]] = field(repr=False)
    """By role: a JWT and an API key."""


@dataclass(frozen=True)
class House:
    """The world, and the tenants in it."""

    world: WholeWorld
    acme: Tenant
    globex: Tenant

    async def call(self, credential: str | None, ask: Ask) -> httpx.Response:
        method, path, more = ask
        async with self.world.client(credential) as client:
            return await client.request(method, path, **more)

    async def log_of(self, tenant: Tenant) -> list[dict[str, Any]]:
        """Everything in a tenant's log but reads of it."""
        jwt, _ = tenant.credentials[Role.ADMIN]
        answer = await self.call(jwt, ("GET", LOGS, {"params": {"include_access": "true", "limit": 1_000}}))
        found: list[dict[str, Any]] = answer.raise_for_status().json()["results"]
        return [one for one in found if not one["action"].startswith("auditlog.read")]

    async def state(self, tenant: Tenant) -> tuple[Any, ...]:
        """What others could have changed: the tenant's own record, its keys, its log."""
        jwt, _ = tenant.credentials[Role.ADMIN]
        shown = [await self.call(jwt, ("GET", own(path)(tenant.known), {})) for path in ("", "/keys")]
        return (*(answer.raise_for_status().json() for answer in shown), await self.log_of(tenant))


@pytest.fixture(scope="module")
async def house(module_database: Database) -> AsyncIterator[House]:
    with short_folder() as folder:
        async with whole_world(module_database, folder) as world:
            yield House(world, await a_tenant(world), await a_tenant(world))


async def a_tenant(world: WholeWorld) -> Tenant:
    tenant = await world.new_tenant()
    keys = {role: await world.new_key(tenant, role) for role in Role}
    revocable = await world.new_key(tenant, Role.AUDITOR)
    credentials = {role: (world.token(tenant, role), keys[role]["api_key"]) for role in Role}
    secret = f"only-{tenant}-knows"
    async with world.client(credentials[Role.ADMIN][0]) as admin:
        sent = [entry(user_id=user, details=secret, resource_id=secret) for user in ("ann", "bob") * 3]
        ids = (await admin.post(f"{LOGS}/bulk", json=sent)).raise_for_status().json()["ids"]
        await admin.get(f"{LOGS}/{ids[-1]}", params={"wait_ms": 10_000})
        first = (await admin.get(LOGS, params={"limit": 1})).raise_for_status().json()
    known = Known(tenant, ids[0], first["next_token"], revocable["key_id"], (secret, f"{revocable['name']}-{secret}"))
    return Tenant(known, credentials)


def nobody(like: Known) -> Known:
    """What looks like something of a tenant, and is of none."""
    cursor = like.cursor[:20] + ("A" if like.cursor[20] != "A" else "B") + like.cursor[21:]
    entry_id = uuid7(SystemClock().now_us())
    return Known(TenantId(f"t{uuid.uuid4().hex}"), str(entry_id), cursor, str(uuid.uuid4()))


def seen(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """An answer without what differs from request to request: its trace, and the path that was asked for."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("traceresponse", "content-length")}
    document = answer.json()
    if answer.status_code >= 400:
        assert headers["content-type"] == "application/problem+json"
        document = {name: value for name, value in document.items() if name not in ("instance", "trace_id")}
    return answer.status_code, headers, document


def slug_of(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).removeprefix("urn:auditlog:problem:")


def test_every_route_that_asks_for_a_credential_has_cases(house: House) -> None:
    endpoints = house.world.gate.routes.endpoints
    asking = {endpoint.label for endpoint in endpoints if isinstance(endpoint.policy, Access)}
    assert asking == set(ALLOWED) == {case.route for case in CASES}
    assert {endpoint.label for endpoint in endpoints if isinstance(endpoint.policy, Public)} == PUBLIC


def expected_of_others(case: Case, role: Role) -> set[tuple[int, str]]:
    """What a role of another tenant may be told."""
    forbidden = (403, "forbidden")
    if role not in ALLOWED[case.route] and role is not Role.ADMIN:
        return {forbidden}
    # A user writes as itself alone, and nothing in these bodies is of a key's own id.
    return {(case.other, case.slug)} | ({forbidden} if role is Role.USER else set())


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_another_tenant_gets_what_it_gets_for_what_does_not_exist(house: House, case: Case) -> None:
    acme, globex = house.acme, house.globex
    before = await house.state(acme)
    for role, credentials in globex.credentials.items():
        for credential in credentials:
            stolen = await house.call(credential, case.ask(acme.known))
            guessed = await house.call(credential, case.ask(nobody(acme.known)))
            assert seen(stolen) == seen(guessed)
            told = (stolen.status_code, slug_of(stolen) if stolen.is_error else "")
            assert told in expected_of_others(case, role), stolen.text
            assert not any(secret in stolen.text for secret in acme.known.secrets)
            if not case.slug:
                assert acme.known.tenant not in stolen.text
    assert await house.state(acme) == before


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_its_owner_gets_it(house: House, case: Case) -> None:
    owner = await a_tenant(house.world)
    for credential in owner.credentials[Role.ADMIN]:
        answer = await house.call(credential, case.ask(owner.known))
        assert answer.status_code == case.owner, answer.text


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_operators_admin_administers_tenants_and_reads_none_of_their_logs(house: House, case: Case) -> None:
    target = await a_tenant(house.world)
    for credential in (house.world.operator_key, house.world.token(OPERATOR_TENANT)):
        answer = await house.call(credential, case.ask(target.known))
        assert answer.status_code == (case.other if case.operator is None else case.operator), answer.text
        assert not any(secret in answer.text for secret in target.known.secrets)


async def test_what_others_tried_stands_in_their_log_and_not_in_the_victims(house: House) -> None:
    acme, globex = await a_tenant(house.world), await a_tenant(house.world)
    before = await house.log_of(acme)
    jwt, _ = globex.credentials[Role.ADMIN]
    for case in CASES:
        await house.call(jwt, case.ask(acme.known))
    async with house.world.client(jwt) as client:
        marker = (await client.post(LOGS, json=entry())).raise_for_status().json()["id"]
        await client.get(f"{LOGS}/{marker}", params={"wait_ms": 10_000})
    assert await house.log_of(acme) == before
    told = {one["resource_id"] for one in await house.log_of(globex) if one["action"] == "auditlog.refused"}
    tenant_routes = {route for route in ALLOWED if "{tenant_id}" in route}
    assert told >= tenant_routes | {"POST /api/v1/logs", "POST /api/v1/logs/bulk", "POST /api/v1/tenants"}


@pytest.mark.parametrize("route", ALLOWED)
async def test_a_role_may_what_it_is_allowed_and_nothing_else(house: House, route: str) -> None:
    tenant = await a_tenant(house.world)
    ask = next(case.ask for case in CASES if case.route == route)(tenant.known)
    for role, credentials in tenant.credentials.items():
        for credential in credentials:
            answer = await house.call(credential, ask)
            if (role, route.startswith("POST /api/v1/logs"), credential[:4]) == (Role.USER, True, "alk."):
                # A key's subject is its own id, and no entry here is of that user.
                assert "is its own" in answer.text
            else:
                assert (answer.status_code not in (401, 403)) == (role in ALLOWED[route]), (role, answer.text)
    anonymous = await house.call(None, ask)
    assert (anonymous.status_code, slug_of(anonymous)) == (401, "unauthenticated")
    for role in set(Role) - {Role.ADMIN}:
        # What the operator's admin may is not for others of its tenant.
        answer = await house.call(house.world.token(OPERATOR_TENANT, role), ask)
        assert answer.status_code in (403, 404)


@pytest.mark.parametrize("route", ALLOWED)
async def test_a_scope_without_the_routes_permission_is_refused(house: House, route: str) -> None:
    (policy,) = (endpoint.policy for endpoint in house.world.gate.routes.endpoints if endpoint.label == route)
    assert isinstance(policy, Access)
    known = Known(OPERATOR_TENANT, str(uuid.uuid4()), "x", str(uuid.uuid4()))
    case = next(case for case in CASES if case.route == route)
    others = set(Permission) - {policy.permission}
    for scope in (others, set[Permission]()):
        credential = house.world.token(OPERATOR_TENANT, scope=scope)
        answer = await house.call(credential, case.ask(known))
        assert (answer.status_code, slug_of(answer)) == (403, "forbidden")
    alone = await house.call(house.world.token(OPERATOR_TENANT, scope={policy.permission}), case.ask(known))
    # DELETE needs the tenant's permission to be reached and the operator's to be done.
    assert alone.status_code != 403 or "tenants:administer" in alone.text, alone.text


@pytest.mark.parametrize("route", ALLOWED)
async def test_a_suspended_tenant_only_writes_and_a_blocked_or_deleted_one_does_nothing(
    house: House, route: str
) -> None:
    tenant = await a_tenant(house.world)
    writes = route.startswith("POST /api/v1/logs")
    case = next(case for case in CASES if case.route == route)

    async def slugs() -> set[tuple[int, str]]:
        answers = [await house.call(one, case.ask(tenant.known)) for one in tenant.credentials[Role.ADMIN]]
        return {(answer.status_code, slug_of(answer) if answer.is_error else "") for answer in answers}

    await house.world.change(tenant.known.tenant, status="suspended")
    assert await slugs() == ({(201, "")} if writes else {(403, "tenant-suspended")})
    await house.world.change(tenant.known.tenant, ingest="blocked")
    assert await slugs() == {(403, "tenant-suspended")}
    await house.world.delete(tenant.known.tenant)
    assert await slugs() == {(403, "tenant-suspended")}


async def test_whoever_sees_less_sees_less_on_every_route_that_reads(house: House) -> None:
    tenant = await house.world.new_tenant()
    sent = [
        entry(user_id=user, resource_type=kind, source=source, severity=severity)
        for user in ("ann", "bob")
        for kind in ("invoice", "report")
        for source in ("billing", "crm")
        for severity in ("INFO", "ERROR")
    ]
    async with house.world.client(house.world.token(tenant)) as admin:
        ids = (await admin.post(f"{LOGS}/bulk", json=sent)).raise_for_status().json()["ids"]
        await admin.get(f"{LOGS}/{ids[-1]}", params={"wait_ms": 10_000})

    async def scoped(**data_scope: list[str]) -> str:
        made = await house.world.new_key(tenant, Role.AUDITOR, data_scope=data_scope)
        return str(made["api_key"])

    user_key = await house.world.new_key(tenant, Role.USER)
    views: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
        (house.world.token(tenant, Role.AUDITOR), lambda _one: True),
        (house.world.token(tenant, Role.USER, subject="ann"), lambda one: one["user_id"] == "ann"),
        (house.world.token(tenant, Role.USER, subject="eve"), lambda _one: False),
        (user_key["api_key"], lambda _one: False),
        (await scoped(resource_types=["invoice"]), lambda one: one["resource_type"] == "invoice"),
        (await scoped(severities=["ERROR"]), lambda one: one["severity"] == "ERROR"),
        (
            await scoped(sources=["crm"], resource_types=["report"]),
            lambda one: (one["source"], one["resource_type"]) == ("crm", "report"),
        ),
        (await scoped(sources=[]), lambda _one: False),
    ]
    for credential, sees in views:
        expected = {id for id, one in zip(ids, sent, strict=True) if sees(one)}
        for route, reads in READS.items():
            async with house.world.client(credential) as client:
                assert await reads(client, ids) == expected, route


async def listed(client: httpx.AsyncClient, _ids: Sequence[str]) -> set[str]:
    answer = (await client.get(LOGS, params={"total": "true"})).raise_for_status().json()
    assert answer["total"] == len(answer["results"])
    by_user = [(await client.get(LOGS, params={"user_id": user})).json()["count"] for user in ("ann", "bob")]
    assert sum(by_user) == answer["total"]
    return {one["id"] for one in answer["results"]}


async def single(client: httpx.AsyncClient, ids: Sequence[str]) -> set[str]:
    answers = {id: await client.get(f"{LOGS}/{id}", params={"wait_ms": 0}) for id in ids}
    assert {answer.status_code for answer in answers.values()} <= {200, 404}
    return {id for id, answer in answers.items() if answer.status_code == 200}


READS: Final = {"GET /api/v1/logs": listed, "GET /api/v1/logs/{id}": single}


def test_every_route_that_reads_is_among_those_that_narrow(house: House) -> None:
    reading = {
        endpoint.label
        for endpoint in house.world.gate.routes.endpoints
        if isinstance(endpoint.policy, Access) and endpoint.policy.permission is Permission.LOGS_READ
    }
    assert reading == set(READS)


@pytest.mark.parametrize("route", sorted(PUBLIC))
async def test_what_asks_for_no_credential_tells_nothing_of_a_tenant(house: House, route: str) -> None:
    method, _, path = route.partition(" ")
    answer = await house.call(None, (method, path, {"json": {}} if method == "POST" else {}))
    assert answer.status_code in (200, 422)
    for tenant in (house.acme, house.globex):
        assert tenant.known.tenant not in answer.text
        assert not any(secret in answer.text for secret in tenant.known.secrets)
