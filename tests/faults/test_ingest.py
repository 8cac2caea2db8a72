"""Ingest while its PostgreSQL is killed under it."""

from __future__ import annotations

import asyncio
from uuid import UUID

import httpx

from audit_kit.directory import CachedDirectory
from tests.ingest_server import entry, ingest_server
from tests.ingest_world import ingest_world
from tests.services import ThrowawayPostgres

LOGS = "/api/v1/logs"


async def test_what_was_acknowledged_survives_a_kill_of_the_queue_and_the_rest_is_503(
    throwaway_postgres: ThrowawayPostgres,
) -> None:
    async with ingest_world(throwaway_postgres.database) as world:
        tenant = await world.new_tenant()
        cached = CachedDirectory(world.directory, clock=world.clock)
        acknowledged: list[UUID] = []
        async with ingest_server(world, directory=cached) as server, server.client(tenant) as client:

            async def post() -> httpx.Response:
                answer = await client.post(LOGS, json=entry())
                if answer.status_code == 201:
                    acknowledged.append(UUID(answer.json()["id"]))
                return answer

            async def keep_posting() -> httpx.Response:
                while (answer := await post()).status_code == 201:
                    pass
                return answer

            posters = [asyncio.create_task(keep_posting()) for _ in range(8)]
            await world.queue.until_sends(20)
            await throwaway_postgres.kill()
            for answer in await asyncio.gather(*posters):
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
            before = len(acknowledged)
            assert (await post()).status_code == 503
            assert len(acknowledged) == before >= 20
            await throwaway_postgres.start()
            assert (await post()).status_code == 201
        found = [event.id for event in await world.events(tenant)]
        assert set(acknowledged) <= set(found)
