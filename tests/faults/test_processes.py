"""Processes killed under load: whatever was acknowledged over HTTP stands in the ledger, once."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from audit_allinone.data_folder import DataFolder
from audit_contracts.principal import OPERATOR_TENANT
from tests.command import free_port, up
from tests.fleet import StubbornProducer, drained, new_tenant, open_fleet, verify
from tests.services import SmallDiskPostgres, ThrowawayPostgres, short_folder

CLIENTS = 6
SERVED = ("ingest", "projector-ledger", "query")


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


async def test_parts_and_their_database_killed_under_load_lose_and_double_nothing(
    throwaway_postgres: ThrowawayPostgres, folder: Path
) -> None:
    database, chance = throwaway_postgres.database, random.Random()
    async with open_fleet(folder, database) as fleet:
        tenant, key = await new_tenant(folder, database, "acme")
        await fleet.start(*SERVED)
        producer = StubbornProducer(fleet.url("ingest"), key, chance)
        producing = asyncio.create_task(producer.run(CLIENTS))
        for killed in (["projector-ledger"], ["ingest"], ["postgres"], ["ingest", "projector-ledger", "postgres"]):
            await producer.until_acknowledged(chance.randint(1, 400))
            processes = [name for name in killed if name != "postgres"]
            await fleet.kill(*processes)
            if "postgres" in killed:
                await throwaway_postgres.kill()
                await throwaway_postgres.start()
            await fleet.start(*processes)
        await producer.until_acknowledged(1)
        producer.end()
        await producing
        assert producer.lost > 0
        await drained(database.url_for("projector"))
        await verify(database.url_for("projector"), tenant, producer.acknowledged)
        await seen_by_a_reader(fleet.url("query"), key, producer.acknowledged)
        await fleet.stop()


async def seen_by_a_reader(url: str, key: str, expected: list[str]) -> None:
    """That a list, read page by page, shows each of these entries once."""
    headers = {"Authorization": f"Bearer {key}"}
    found: list[str] = []
    parameters = {"limit": "1000"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False) as http:
        while True:
            page = (await http.get("/logs", params=parameters)).raise_for_status().json()
            found += [one["id"] for one in page["results"]]
            if page["next_token"] is None:
                break
            parameters["next_token"] = page["next_token"]
    assert sorted(found) == sorted(expected)


async def test_up_killed_under_load_loses_and_doubles_nothing(folder: Path) -> None:
    port, chance = free_port(), random.Random()
    database_url = DataFolder(folder / "data").login_url
    async with AsyncExitStack() as stack:
        started = await stack.enter_async_context(up(folder, "--no-demo", port=port))
        producer = StubbornProducer(f"{started.url}/api/v1", started.profile["token"], chance)
        producing = asyncio.create_task(producer.run(CLIENTS))
        for _ in range(2):
            await producer.until_acknowledged(chance.randint(1, 400))
            started.stop(signal.SIGKILL)
            await started.ended()
            started = await stack.enter_async_context(up(folder, "--no-demo", port=port))
        await producer.until_acknowledged(1)
        producer.end()
        await producing
        assert producer.lost > 0
        await drained(database_url("projector"))
        await verify(database_url("projector"), OPERATOR_TENANT, producer.acknowledged)
        started.stop()
        assert await started.ended() == 0


async def test_a_full_disk_acknowledges_nothing_that_it_loses_and_recovers(
    small_disk_postgres: SmallDiskPostgres, folder: Path
) -> None:
    database = small_disk_postgres.database
    async with open_fleet(folder, database) as fleet:
        tenant, key = await new_tenant(folder, database, "acme")
        await fleet.start(*SERVED)
        producer = StubbornProducer(fleet.url("ingest"), key, random.Random())
        producing = asyncio.create_task(producer.run(CLIENTS))
        await producer.until_acknowledged(100)
        small_disk_postgres.fill_disk()
        await producer.until_refused(3 * CLIENTS)
        small_disk_postgres.free_disk()
        await producer.until_acknowledged(100)
        producer.end()
        await producing
        await drained(database.url_for("projector"))
        await verify(database.url_for("projector"), tenant, producer.acknowledged)
        await fleet.stop()
