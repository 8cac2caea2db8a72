"""Each part's login: what it can't do, whatever the code asks for, and that no connection carries a tenant along."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from audit_backends.key_store.file import FileKeyStore
from audit_backends.postgres_pool import postgres_pool
from audit_backends.schema.migrations import PARTS
from audit_backends.tenant_directory.postgres import PostgresTenantDirectory, PostgresTenantRegistry
from audit_contracts.errors import NotFound
from audit_contracts.ports.tenant_keys import KeyPurpose
from audit_contracts.principal import TenantId
from tests.services import Database, FreshDatabase

ACME, GLOBEX = TenantId("acme"), TenantId("globex")

LEDGER = ("heads", "entries", "spans", "batch_ids", "event_ids", "owner_keys", "dead_letters")
CONTROL = ("tenants", "api_keys", "tenant_keys", "key_purposes", "facts", "outbox")
TABLES = (*(f"auditlog.{name}" for name in (*LEDGER, *CONTROL)), "auditlog_queue.messages", "auditlog.entries_20260921")
VIEWS = (
    *(f"auditlog_directory.{name}" for name in ("tenants", "api_keys", "tenant_keys")),
    *(f"auditlog_query.{name}" for name in ("entries", "spans", "heads", "event_ids", "owner_keys")),
)
VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")

# All that each login may do to a table or view, in whole or in part. Whatever isn't here is refused.
DIRECTORY = {("SELECT", f"auditlog_directory.{name}") for name in ("tenants", "api_keys", "tenant_keys")}
EVERYBODY = {*DIRECTORY, ("SELECT", "auditlog.facts"), ("INSERT", "auditlog_queue.messages")}
ALLOWED: dict[str, set[tuple[str, str]]] = {
    "ingest": EVERYBODY,
    "projector": EVERYBODY
    | {("SELECT", f"auditlog.{name}") for name in LEDGER}
    | {("INSERT", f"auditlog.{name}") for name in LEDGER if name != "heads"}
    | {("UPDATE", f"auditlog.{name}") for name in ("heads", "spans", "dead_letters")}
    | {("DELETE", "auditlog.batch_ids")}
    | {(verb, "auditlog_queue.messages") for verb in ("SELECT", "UPDATE", "DELETE")},
    "query": EVERYBODY | {("SELECT", view) for view in VIEWS},
    "admin": EVERYBODY
    | {("SELECT", f"auditlog.{name}") for name in ("tenants", "api_keys", "tenant_keys", "outbox")}
    | {("INSERT", f"auditlog.{name}") for name in ("api_keys", "tenant_keys", "outbox")}
    | {("UPDATE", f"auditlog.{name}") for name in ("tenants", "api_keys")},
}

# What a part of a table is withheld from a login that may reach the rest of it.
REFUSED = {
    "ingest": [
        "SELECT * FROM auditlog_queue.messages",
        "INSERT INTO auditlog_queue.messages (tenant, batch_id, body) VALUES ('a', gen_random_uuid(), '') RETURNING *",
        "INSERT INTO auditlog_queue.messages (tenant, batch_id, body, receives) VALUES ('a', gen_random_uuid(), '', 9)",
        "SELECT auditlog.create_tenant('mine', 'mine', '{}', '{}', '{}')",
        "SELECT auditlog.attach_days(current_date, 1)",
        "SELECT auditlog.touch_api_keys('{}', '{}', '{}')",
        "SELECT auditlog.take_outbox(1)",
    ],
    "projector": [
        "UPDATE auditlog.heads SET log_id = '\\x00'",
        "UPDATE auditlog.entries SET action = 'nothing'",
        "DELETE FROM auditlog.entries",
        "TRUNCATE auditlog.entries",
        "ALTER TABLE auditlog.entries DETACH PARTITION auditlog.entries_20260921",
        "DROP TABLE auditlog.entries_20260921",
        "UPDATE auditlog.dead_letters SET reason = 'none'",
        "UPDATE auditlog.owner_keys SET wrapped = ''",
        "SELECT auditlog.take_outbox(1)",
        "SELECT auditlog.create_tenant('mine', 'mine', '{}', '{}', '{}')",
    ],
    "query": [
        "SELECT * FROM auditlog.entries",
        "SELECT * FROM auditlog.entries_20260921",
        "SELECT * FROM auditlog.tenants",
        "SELECT auditlog.take_outbox(1)",
        "SELECT auditlog.attach_days(current_date, 1)",
    ],
    "admin": [
        "SELECT wrapped FROM auditlog.tenant_keys",
        "SELECT * FROM auditlog.tenant_keys",
        "UPDATE auditlog.tenants SET tenant = 'other'",
        "UPDATE auditlog.tenants SET created_at = now()",
        "UPDATE auditlog.api_keys SET secret_hash = sha256('mine')",
        "UPDATE auditlog.api_keys SET role = 'admin'",
        "UPDATE auditlog.tenant_keys SET wrapped = ''",
        "SELECT body FROM auditlog.outbox",
        "UPDATE auditlog.outbox SET body = ''",
        "DELETE FROM auditlog.outbox",
        "INSERT INTO auditlog.tenants (tenant, name) VALUES ('mine', 'mine')",
        "INSERT INTO auditlog.key_purposes VALUES ('auditlog_admin', 'owner')",
        "INSERT INTO auditlog.facts VALUES ('mode', 'development')",
        "SELECT auditlog.touch_api_keys('{}', '{}', '{}')",
    ],
}


@pytest.fixture(scope="module")
async def filled(fresh_database: FreshDatabase) -> AsyncIterator[Database]:
    """Two tenants with everything that a tenant can have: one row in each table."""
    async with fresh_database() as database:
        async with postgres_pool(database.url_for("admin"), part="admin") as pool:
            registry = PostgresTenantRegistry(pool, key_store=FileKeyStore(secrets.token_bytes(32)))
            for tenant in (ACME, GLOBEX):
                await registry.create_tenant(tenant, name=tenant)
        owner = await asyncpg.connect(database.owner_url)
        await owner.execute("SELECT auditlog.attach_days('2026-09-21', 0)")
        for tenant in (ACME, GLOBEX):
            await owner.execute(
                f"""
                INSERT INTO auditlog.entries (tenant, position, recorded_at, id, "timestamp", received_at, action,
                    severity, outcome, resource_type, schema_version, core_salt, root, leaf_hash, sealed)
                VALUES ('{tenant}', 0, '2026-09-21 12:00Z', gen_random_uuid(), now(), now(), 'user.login', 'INFO',
                    'success', 'session', 1, '', '', '', '');
                INSERT INTO auditlog.spans VALUES ('{tenant}', '2026-09-21', 0, 0, now(), now(), now(), now());
                INSERT INTO auditlog.event_ids VALUES ('{tenant}', gen_random_uuid(), '', 0);
                INSERT INTO auditlog.owner_keys
                    VALUES ('{tenant}', gen_random_uuid(), decode(repeat('00', 16), 'hex'), gen_random_uuid(), '');
                INSERT INTO auditlog.api_keys (tenant, key_id, name, role, data_scope, secret_hash, created_at,
                    created_by)
                VALUES ('{tenant}', gen_random_uuid(), 'key', 'user', '{{}}', sha256('secret'), now(), 'ada');
                """
            )
        await owner.close()
        yield database


@pytest.fixture(params=PARTS)
async def login(request: pytest.FixtureRequest, filled: Database) -> AsyncIterator[tuple[str, Any]]:
    connection = await asyncpg.connect(filled.url_for(request.param))
    yield request.param, connection
    await connection.close()


async def test_a_login_is_no_more_than_a_login(login: tuple[str, Any]) -> None:
    part, connection = login
    role = await connection.fetchrow("SELECT * FROM pg_roles WHERE rolname = current_user")
    assert role["rolname"] == f"auditlog_{part}"
    assert not any(role[f"rol{power}"] for power in ("super", "createrole", "createdb", "replication", "bypassrls"))
    assert await connection.fetchval("SELECT count(*) FROM pg_auth_members WHERE member = current_user::regrole") == 0
    for statement in ("SET ROLE postgres", "CREATE TABLE auditlog.mine ()", "CREATE SCHEMA mine", "CHECKPOINT"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_each_login_may_do_what_its_part_does_and_nothing_else(login: tuple[str, Any]) -> None:
    part, connection = login
    relations = await connection.fetch(
        "SELECT relnamespace::regnamespace || '.' || relname AS name FROM pg_class "
        "WHERE relnamespace::regnamespace::text LIKE 'auditlog%' AND relkind IN ('r', 'p', 'v') "
        "AND relnamespace::regnamespace::text <> 'auditlog_migrations'"
    )
    assert {relation["name"] for relation in relations} == {*TABLES, *VIEWS}
    may = {
        (verb, name)
        for name in (*TABLES, *VIEWS)
        for verb in VERBS
        if await connection.fetchval(
            "SELECT has_schema_privilege(split_part($1, '.', 1), 'USAGE') AND CASE "
            "WHEN $2 IN ('DELETE', 'TRUNCATE', 'TRIGGER') THEN has_table_privilege($1, $2) "
            "ELSE has_any_column_privilege($1, $2) END",
            name,
            verb,
        )
    }
    assert may == ALLOWED[part]


async def test_what_is_withheld_is_refused(login: tuple[str, Any]) -> None:
    part, connection = login
    everything = [f"SELECT count(*) FROM {name}" for name in TABLES if ("SELECT", name) not in ALLOWED[part]]
    for statement in [*REFUSED[part], *everything]:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_a_view_shows_the_bound_tenant_alone_and_nothing_to_the_unbound(login: tuple[str, Any]) -> None:
    part, connection = login
    for verb, view in sorted(ALLOWED[part] & {("SELECT", view) for view in VIEWS}):
        statement = f"{verb} tenant FROM {view}"
        assert await connection.fetch(statement) == []
        async with connection.transaction():
            await connection.execute("SELECT set_config('auditlog.tenant', 'acme', true)")
            assert {row["tenant"] for row in await connection.fetch(statement)} == {ACME}, view
            assert await connection.fetch(f"{statement} WHERE tenant = 'globex'") == []
        assert await connection.fetch(statement) == []


async def test_an_empty_binding_or_a_pattern_binds_to_nobody(login: tuple[str, Any]) -> None:
    _, connection = login
    for bound in ("", "%", "acme,globex", "acme' OR 'a'='a", "ACME", "acme "):
        async with connection.transaction():
            await connection.execute("SELECT set_config('auditlog.tenant', $1, true)", bound)
            assert await connection.fetch("SELECT tenant FROM auditlog_directory.tenants") == []


@pytest.mark.parametrize("part", PARTS)
async def test_a_pooled_connection_never_carries_a_binding_to_the_next(filled: Database, part: str) -> None:
    async with postgres_pool(filled.url_for(part), part=part, connections_max=1) as pool:
        directory = PostgresTenantDirectory(pool)

        async def left_behind() -> tuple[str | None, int]:
            async with pool.acquire() as connection:
                bound = await connection.fetchval("SELECT nullif(current_setting('auditlog.tenant', true), '')")
                return bound, len(await connection.fetch("SELECT FROM auditlog_directory.tenants"))

        assert (await directory.tenant(ACME)).tenant_id == ACME
        assert await left_behind() == (None, 0)
        with pytest.raises(NotFound):
            await directory.current(TenantId("nobody"), KeyPurpose.TRANSPORT)
        assert await left_behind() == (None, 0)
        reading = asyncio.create_task(directory.tenant(GLOBEX))
        for _ in range(3):
            await asyncio.sleep(0)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        assert await left_behind() == (None, 0)
        async with pool.acquire() as connection:
            # Not what any code of ours does: a binding of the whole session.
            await connection.execute("SELECT set_config('auditlog.tenant', 'acme', false)")
        assert await left_behind() == (None, 0)


@pytest.mark.parametrize("part", PARTS)
async def test_a_binding_ends_with_its_transaction_even_where_the_pool_resets_nothing(
    filled: Database, part: str
) -> None:
    async def leave_as_it_is(connection: Any) -> None:
        assert not connection.is_in_transaction()

    async with asyncpg.create_pool(filled.url_for(part), min_size=1, max_size=1, reset=leave_as_it_is) as pool:
        assert (await PostgresTenantDirectory(pool).tenant(ACME)).tenant_id == ACME
        async with pool.acquire() as connection:
            assert await connection.fetch("SELECT FROM auditlog_directory.tenants") == []


@pytest.mark.parametrize("part", PARTS)
async def test_tenants_that_share_a_pool_each_see_themselves(filled: Database, part: str) -> None:
    async with postgres_pool(filled.url_for(part), part=part, connections_max=2) as pool:
        directory = PostgresTenantDirectory(pool)
        asked = [ACME, GLOBEX, GLOBEX, ACME] * 25
        tenants = await asyncio.gather(*(directory.tenant(tenant) for tenant in asked))
        keys = await asyncio.gather(*(directory.current(tenant, KeyPurpose.TRANSPORT) for tenant in asked))
    assert [tenant.tenant_id for tenant in tenants] == asked
    assert [key.tenant for key in keys] == asked
