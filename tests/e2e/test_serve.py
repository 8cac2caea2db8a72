"""The parts on their own, as a fleet runs them: migrated once, served apart, each with its health beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest

from audit_allinone.embedded_postgres import EmbeddedPostgres, embedded_postgres
from audit_allinone.urls import url_as
from tests.command import Ended, Running, auditlog, environment, free_port, ready, serving, up
from tests.services import short_folder

PARTS = ("ingest", "projector", "query", "admin")


@dataclass(frozen=True)
class Site:
    """A database of its own owner, migrated by two `auditlog migrate` at once, and what they printed."""

    folder: Path
    server: EmbeddedPostgres
    migrated: tuple[Ended, Ended]

    @property
    def printed(self) -> dict[str, str]:
        """The variables that they printed."""
        return variables("".join(ended.out for ended in self.migrated))

    def env(self, *names: str) -> dict[str, str]:
        """The environment of a process that gets these of the printed variables, and the key store."""
        printed = {name: self.printed[name] for name in names}
        return {**environment(key_store_url=(self.folder / "root-key").as_uri()), **printed}

    def owner_env(self) -> dict[str, str]:
        """The environment of who owns the database."""
        return environment(key_store_url=(self.folder / "root-key").as_uri(), database_url=self.server.owner_url)


def variables(text: str) -> dict[str, str]:
    """The lines NAME=value of what a command printed."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len({line.partition("=")[0] for line in lines}) == len(lines)
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    with short_folder() as folder:
        async with embedded_postgres(folder / "postgres") as server:
            made = Site(folder, server, (Ended(0, "", ""), Ended(0, "", "")))
            both = await asyncio.gather(*(auditlog("migrate", cwd=folder, env=made.owner_env()) for _ in range(2)))
            yield Site(folder, server, (both[0], both[1]))


async def test_two_migrations_at_once_make_everything_once(site: Site) -> None:
    assert [(ended.status, ended.err) for ended in site.migrated] == [(0, "")] * 2
    assert set(site.printed) == {*(f"AUDITLOG_{part.upper()}_DATABASE_URL" for part in PARTS), "AUDITLOG_TOKEN"}
    for part in PARTS:
        connection = await asyncpg.connect(site.printed[f"AUDITLOG_{part.upper()}_DATABASE_URL"])
        assert await connection.fetchval("SELECT current_user::text") == f"auditlog_{part}"
        await connection.close()


async def test_migrating_again_prints_no_secret_and_changes_nothing(site: Site) -> None:
    again = await auditlog("migrate", cwd=site.folder, env=site.owner_env())
    assert (again.status, again.err) == (0, "")
    assert variables(again.out) == {}
    connection = await asyncpg.connect(site.printed["AUDITLOG_QUERY_DATABASE_URL"])
    await connection.close()


async def test_parts_served_apart_carry_an_entry_from_post_to_get(site: Site) -> None:
    ports = {part: (free_port(), free_port()) for part in ("ingest", "projector-ledger", "read")}
    served: dict[str, tuple[list[str], list[str]]] = {
        "ingest": (["ingest"], ["AUDITLOG_INGEST_DATABASE_URL"]),
        "projector-ledger": (["projector-ledger"], ["AUDITLOG_PROJECTOR_DATABASE_URL"]),
        "read": (["query", "admin"], ["AUDITLOG_QUERY_DATABASE_URL", "AUDITLOG_ADMIN_DATABASE_URL"]),
    }
    async with AsyncExitStack() as stack:
        running: list[Running] = []
        for name, (parts, needed) in served.items():
            port, health_port = ports[name]
            options = ["--port", str(port), "--health-port", str(health_port)]
            running.append(
                await stack.enter_async_context(
                    serving("serve", *parts, *options, cwd=site.folder, env=site.env(*needed), name=name)
                )
            )
        for _, health_port in ports.values():
            await ready(f"http://127.0.0.1:{health_port}")
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        ingest, read = (f"http://127.0.0.1:{ports[name][0]}/api/v1" for name in ("ingest", "read"))

        operator = {"Authorization": f"Bearer {site.printed['AUDITLOG_TOKEN']}"}
        made = await client.post(f"{read}/tenants", json={"tenant_id": "acme", "name": "Acme"}, headers=operator)
        assert made.status_code == 201, made.text
        admin = {"Authorization": f"Bearer {made.json()['first_key']['api_key']}"}

        entry = {"user_id": "ann", "action": "LOGIN", "resource_type": "user", "resource_id": "ann"}
        posted = await client.post(f"{ingest}/logs", json=entry, headers=admin)
        assert posted.status_code == 201, posted.text
        path = f"{read}/logs/{posted.json()['id']}"
        found = await client.get(path, params={"wait_ms": 10_000}, headers=admin)
        assert found.status_code == 200, found.text
        assert found.json()["user_id"] == "ann"
        # What is the operator's stays the operator's, and a part has no routes but its own.
        assert (await client.get(path, headers=operator)).status_code == 404
        assert (await client.get(f"{ingest}/logs", headers=admin)).status_code == 405
        assert (await client.post(f"{read}/mock-login", json={})).status_code == 404
        assert (await client.get(f"{read.removesuffix('/api/v1')}/livez")).status_code == 404
        health = f"http://127.0.0.1:{ports['ingest'][1]}"
        assert "auditlog_ingest_accepted_events_total 1.0" in (await client.get(f"{health}/metrics")).text

        for process in running:
            process.stop()
        assert [await process.ended() for process in running] == [0, 0, 0]


async def test_a_part_without_its_url_says_which_are_missing(site: Site) -> None:
    ended = await auditlog("serve", "query", "ingest", cwd=site.folder)
    assert (ended.status, ended.out) == (1, "")
    assert [line.partition(":")[0] for line in ended.err.splitlines()] == [
        "AUDITLOG_KEY_STORE_URL",
        "AUDITLOG_INGEST_DATABASE_URL",
        "AUDITLOG_QUERY_DATABASE_URL",
    ]


async def test_a_part_that_there_is_not_is_a_mistake_in_the_call(site: Site) -> None:
    ended = await auditlog("serve", "ingest", "stream", cwd=site.folder)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "there is no part stream; there are: ingest, projector-ledger, query, admin\n"


async def test_a_part_refuses_a_database_that_nobody_migrated(site: Site) -> None:
    owner = await asyncpg.connect(site.server.owner_url)
    await owner.execute("CREATE DATABASE empty")
    await owner.close()
    url = site.printed["AUDITLOG_QUERY_DATABASE_URL"].replace("/auditlog?", "/empty?")
    env = {**site.env(), "AUDITLOG_QUERY_DATABASE_URL": url}
    ended = await auditlog("serve", "query", cwd=site.folder, env=env)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].endswith("run `auditlog migrate`")
    assert "Traceback" not in ended.err


async def test_a_wrong_password_is_one_clear_line_without_the_password(site: Site) -> None:
    env = {**site.env(), "AUDITLOG_QUERY_DATABASE_URL": url_as(site.server.owner_url, "auditlog_query", "hunter2")}
    ended = await auditlog("serve", "query", cwd=site.folder, env=env)
    assert (ended.status, ended.out) == (1, "")
    assert 'password authentication failed for user "auditlog_query"' in ended.err
    assert "hunter2" not in ended.err
    assert "Traceback" not in ended.err


async def test_a_root_key_that_was_lost_is_not_made_anew(site: Site) -> None:
    env = {**site.owner_env(), "AUDITLOG_KEY_STORE_URL": (site.folder / "another-key").as_uri()}
    ended = await auditlog("migrate", cwd=site.folder, env=env)
    assert (ended.status, ended.out) == (1, "")
    assert "the root key can't be read" in ended.err
    assert not (site.folder / "another-key").exists()


async def test_up_on_a_database_of_ones_own_wants_its_logins_and_is_never_in_development_mode(site: Site) -> None:
    cwd = site.folder / "own"
    cwd.mkdir()
    ended = await auditlog("up", "--port", "0", "--data-dir", cwd / "data", cwd=cwd, env=site.owner_env())
    assert (ended.status, ended.out) == (1, "")
    assert "set AUDITLOG_INGEST_DATABASE_URL, AUDITLOG_PROJECTOR_DATABASE_URL" in ended.err
    env = {**site.owner_env(), **{name: url for name, url in site.printed.items() if name.endswith("_URL")}}
    async with up(cwd, env=env) as started, started.client() as client:
        assert started.profile["tenant"] == "operator"
        assert "Development mode" not in started.said
        assert (await client.get("/logs")).status_code == 200
        assert (await client.post("/mock-login", json={})).status_code == 404
        assert {file.name for file in started.data.iterdir()} == {"operator.json", "profile.json"}
        started.stop()
        assert await started.ended() == 0
