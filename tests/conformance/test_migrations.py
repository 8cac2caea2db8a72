"""Migrations: once, whole, safe side by side; and a pool that opens only on a database that keeps its promises."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from audit_backends.postgres_pool import UnsafeDatabase, postgres_pool
from audit_backends.schema import migrations
from audit_backends.schema.migrations import SchemaTooOld, Step
from tests.services import Database, ThrowawayPostgres

APPLIED = "SELECT array_agg(version ORDER BY version) FROM auditlog_migrations.applied"


async def fetchval(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_two_that_start_together_migrate_once(throwaway_postgres: ThrowawayPostgres) -> None:
    owner_url = throwaway_postgres.server.owner_url
    await fetchval(owner_url, "CREATE DATABASE apart")
    apart = owner_url.replace("/auditlog?", "/apart?")
    results = await asyncio.gather(*[migrations.migrate(apart) for _ in range(4)])
    everything = [step.name for step in migrations.steps()]
    assert sorted(list(result.applied) for result in results) == [[], [], [], everything]
    assert await fetchval(apart, APPLIED) == [step.version for step in migrations.steps()]


async def test_a_step_that_fails_leaves_nothing_and_can_be_mended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Sequence[Step] = migrations.steps()

    def with_step(sql: str) -> None:
        monkeypatch.setattr(migrations, "steps", lambda: [*real, Step(9999, "9999_next", sql)])

    with_step("CREATE TABLE auditlog.half (); SELECT 1/0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrations.migrate(database.owner_url)
    assert await fetchval(database.owner_url, "SELECT to_regclass('auditlog.half')") is None

    with_step("CREATE TABLE auditlog.half ()")
    assert (await migrations.migrate(database.owner_url)).applied == ["9999_next"]


async def test_a_part_refuses_a_schema_that_is_too_old_and_takes_a_newer_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = migrations.steps()
    monkeypatch.setattr(migrations, "steps", lambda: [*real, Step(9999, "9999_next", "SELECT 1")])
    with pytest.raises(SchemaTooOld, match="auditlog migrate"):
        async with postgres_pool(database.url_for("query"), part="query"):
            pass
    await migrations.migrate(database.owner_url)
    monkeypatch.setattr(migrations, "steps", lambda: real)
    async with postgres_pool(database.url_for("query"), part="query"):
        pass


async def test_a_database_that_was_never_migrated_is_refused_with_what_to_do(
    throwaway_postgres: ThrowawayPostgres,
) -> None:
    owner_url = throwaway_postgres.server.owner_url
    await fetchval(owner_url, "CREATE DATABASE bare")
    with pytest.raises(SchemaTooOld, match="auditlog migrate"):
        async with postgres_pool(owner_url.replace("/auditlog?", "/bare?"), part="query"):
            pass


async def test_a_database_that_would_lose_commits_is_refused(database: Database) -> None:
    name = await fetchval(database.owner_url, "SELECT current_database()")
    await fetchval(database.owner_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    with pytest.raises(UnsafeDatabase, match="synchronous_commit"):
        async with postgres_pool(database.url_for("ingest"), part="ingest"):
            pass


async def test_given_passwords_are_set_and_never_shown(throwaway_postgres: ThrowawayPostgres) -> None:
    owner_url = throwaway_postgres.server.owner_url
    migrated = await migrations.migrate(owner_url, passwords={"query": 'it\'s "new"'})
    assert "new" not in repr(migrated)
    url = throwaway_postgres.server.url_for("auditlog_query", 'it\'s "new"')
    assert await fetchval(url, "SELECT current_user::text") == "auditlog_query"
