"""The servers that tests get are what tests/services.py says."""

from __future__ import annotations

import asyncpg
import pytest

from audit_backends.schema import migrations
from tests.services import Database, FreshDatabase, SmallDiskPostgres, ThrowawayPostgres


@pytest.mark.parametrize("part", migrations.PARTS)
async def test_each_part_has_its_login_on_a_fresh_database(database: Database, part: str) -> None:
    connection = await asyncpg.connect(database.url_for(part))
    try:
        await migrations.check(connection)
        assert await connection.fetchval("SELECT current_user::text") == f"auditlog_{part}"
    finally:
        await connection.close()


async def test_what_one_database_holds_another_does_not(fresh_database: FreshDatabase) -> None:
    async with fresh_database() as one, fresh_database() as other:
        await _execute(one, "CREATE TABLE mine ()")
        with pytest.raises(asyncpg.UndefinedTableError):
            await _execute(other, "TABLE mine")


async def test_a_killed_server_comes_back_under_the_same_urls(throwaway_postgres: ThrowawayPostgres) -> None:
    before = throwaway_postgres.database
    await _execute(before, "CREATE TABLE kept ()")
    await throwaway_postgres.kill()
    await throwaway_postgres.start()
    assert throwaway_postgres.database == before
    await _execute(before, "TABLE kept")


async def test_a_filled_disk_refuses_writes_until_it_has_room(small_disk_postgres: SmallDiskPostgres) -> None:
    database = small_disk_postgres.database
    await _execute(database, "CREATE TABLE rows (n bigint)")
    small_disk_postgres.fill_disk()
    with pytest.raises(asyncpg.DiskFullError):
        await _execute(database, "INSERT INTO rows SELECT generate_series(1, 10_000)")
    small_disk_postgres.free_disk()
    await _execute(database, "INSERT INTO rows SELECT generate_series(1, 10_000)")


async def _execute(database: Database, statement: str) -> None:
    connection = await asyncpg.connect(database.owner_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
