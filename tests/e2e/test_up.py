"""`auditlog up`: what it prints works, what it is told to stop ends well, what is killed goes on from there."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from audit_allinone import demo
from tests.command import Up, auditlog, environment, free_port, run, serving, up
from tests.services import short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


def printed_commands(started: Up) -> list[str]:
    lines = started.said.partition("Try in another terminal")[2].splitlines()[1:]
    return [line.strip() for line in lines if line.startswith("  ")]


async def listed(started: Up, **parameters: str) -> list[dict[str, object]]:
    async with started.client() as client:
        answer = await client.get("/logs", params={"limit": "1000", **parameters})
        results: list[dict[str, object]] = answer.raise_for_status().json()["results"]
        return results


async def test_the_printed_commands_work_as_they_stand_and_a_second_start_continues(folder: Path) -> None:
    async with up(folder) as started:
        commands = printed_commands(started)
        assert len(commands) == 3
        searched = await run("bash", "-c", commands[0], cwd=folder)
        assert (searched.status, searched.err) == (0, "")
        assert [(line["action"], line["outcome"]) for line in searched.lines] == [("LOGIN", "failure")] * 10
        sent = await run("bash", "-c", commands[1], cwd=folder)
        assert (sent.status, sent.err) == (0, "")
        assert sent.lines[0]["metadata"] == {"password": "[REDACTED]"}
        assert commands[2].startswith("curl ")
        if shutil.which("curl"):
            fetched = await run("bash", "-c", commands[2], cwd=folder)
            assert fetched.lines[0]["count"] == 1
        async with httpx.AsyncClient(base_url=started.url) as client:
            assert (await client.get("/docs")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
        before = await listed(started)
        profile = started.profile
        started.stop()
        assert await started.ended() == 0
        # Steps of a slow start, and nothing else.
        assert all(line.endswith(" …") for line in started.erred().splitlines())
    async with up(folder) as started:
        assert await listed(started) == before
        assert started.profile == {**profile, "url": started.url}
        started.stop(signal.SIGINT)
        assert await started.ended() == 0


async def test_the_demo_tells_its_story_once_masked_and_in_order(folder: Path) -> None:
    async with up(folder) as started:
        entries = await listed(started, sort="position", source=demo.SOURCE)
        assert 200 < len(entries) < 400
        assert [entry["timestamp"] for entry in entries] == sorted(str(entry["timestamp"]) for entry in entries)
        assert all(not entry.get("flags") or entry["flags"] == ["late"] for entry in entries)
        told = json.dumps(entries)
        for secret in ("4111 1111 1111 1111", "536-22-8726", "summer2014"):
            assert secret not in told


async def test_what_is_kept_is_for_its_owner_alone(folder: Path) -> None:
    async with up(folder, "--no-demo") as started:
        files = [path for path in started.data.iterdir() if path.is_file()]
        assert {path.name for path in files} == {
            "dev-issuer.pem",
            "logins.json",
            "operator.json",
            "profile.json",
            "root-key",
        }
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        assert stat.S_IMODE(started.data.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
        token = started.profile["token"]
        assert token not in started.said + started.erred()


async def test_without_a_demo_the_profile_is_the_operators(folder: Path) -> None:
    async with up(folder, "--no-demo") as started:
        assert started.profile["tenant"] == "operator"
        async with started.client() as client:
            tenants = (await client.get("/tenants")).raise_for_status().json()
            assert [tenant["tenant_id"] for tenant in tenants["results"]] == ["operator"]
            made = await client.post("/tenants", json={"tenant_id": "acme", "name": "Acme"})
            assert made.status_code == 201
        searched = await started.auditlog("search")
        assert searched.status == 0


async def test_a_lost_profile_is_made_anew(folder: Path) -> None:
    async with up(folder, "--no-demo") as started:
        lost = started.profile
        started.stop()
        await started.ended()
    (folder / "data" / "profile.json").unlink()
    (folder / "data" / "operator.json").unlink()
    async with up(folder, "--no-demo") as started:
        assert started.profile["token"] != lost["token"]
        async with started.client() as client:
            assert (await client.get("/logs")).status_code == 200


async def test_development_mode_gives_tokens_on_loopback_and_says_so(folder: Path) -> None:
    login = {"tenant_id": "operator", "user_id": "ann", "access_level": "admin"}
    async with up(folder, "--no-demo") as started, started.client() as client:
        assert "Development mode" in started.said
        answer = await client.post("/mock-login", json=login)
        token = answer.raise_for_status().json()["access_token"]
        assert (await client.get("/logs", headers={"Authorization": f"Bearer {token}"})).status_code == 200
        started.stop()
        await started.ended()
    # The same database where others could reach it: nobody is given a token, and those given are worth nothing.
    async with up(folder, "--no-demo", "--host", "0.0.0.0") as started, started.client() as client:
        assert "Development mode" not in started.said
        assert (await client.get("/logs")).status_code == 200
        assert (await client.post("/mock-login", json=login)).status_code == 404
        assert (await client.get("/logs", headers={"Authorization": f"Bearer {token}"})).status_code == 401


async def test_what_was_killed_recovers(folder: Path) -> None:
    async with up(folder, "--no-demo") as started, started.client() as client:
        entry = {"user_id": "ann", "action": "LOGIN", "resource_type": "user", "resource_id": "ann"}
        ids = [(await client.post("/logs", json=entry)).raise_for_status().json()["id"] for _ in range(20)]
        started.stop(signal.SIGKILL)
        await started.ended()
    async with up(folder, "--no-demo") as started, started.client() as client:
        for entry_id in ids:
            answer = await client.get(f"/logs/{entry_id}", params={"wait_ms": 5_000})
            assert answer.status_code == 200, started.erred()


async def test_a_start_that_is_told_to_stop_ends_well(folder: Path) -> None:
    async with serving("up", "--port", "0", "--data-dir", str(folder / "data"), cwd=folder, name="up") as started:
        while not (folder / "data" / "postgres" / "server.log").exists():  # noqa: ASYNC110 - a file tells no event
            await asyncio.sleep(0.01)
        started.stop()
        assert await started.ended() == 0
        assert "Traceback" not in started.erred()


async def test_a_port_in_use_is_one_clear_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = await auditlog("up", "--port", str(port), "--data-dir", folder / "data", cwd=folder)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == f"can't listen on 127.0.0.1:{port}: Address already in use\n"
    assert not (folder / "data").exists()


async def test_a_folder_in_use_is_one_clear_line_and_does_no_harm(folder: Path) -> None:
    async with up(folder, "--no-demo") as started:
        ended = await auditlog("up", "--port", "0", "--data-dir", started.data, cwd=folder)
        assert (ended.status, ended.out) == (1, "")
        assert f"{started.data}/postgres is in use by another auditlog (process {started.process.pid})" in ended.err
        assert ended.err.count("\n") == 1
        assert await listed(started) == []


async def test_wrong_settings_are_told_all_at_once(folder: Path) -> None:
    env = environment(port="many", hot_days="0")
    ended = await auditlog("up", "--data-dir", folder / "data", cwd=folder, env=env)
    assert (ended.status, ended.out) == (1, "")
    assert [line.partition(":")[0] for line in ended.err.splitlines()] == ["AUDITLOG_PORT", "AUDITLOG_HOT_DAYS"]


async def test_a_folder_that_cannot_be_written_to_is_one_clear_line(folder: Path) -> None:
    (folder / "file").write_text("")
    ended = await auditlog("up", "--port", str(free_port()), "--data-dir", folder / "file" / "data", cwd=folder)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == f"the data folder {folder}/file/data can't be made: Not a directory\n"


async def test_a_database_that_dies_ends_it_with_a_clear_line(folder: Path) -> None:
    async with up(folder, "--no-demo") as started:
        pid = int((started.data / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        assert await started.ended() == 1
        assert "PostgreSQL ended with status -9; start again to recover" in started.erred()
        assert "Traceback" not in started.erred()
    async with up(folder, "--no-demo") as started:
        assert await listed(started) == []


async def test_a_first_start_that_is_killed_at_any_step_is_taken_up_by_the_next(folder: Path) -> None:
    for made in ("postgres/data", "logins.json", "root-key", "operator.json", "dev-issuer.pem"):
        async with serving("up", "--port", "0", "--data-dir", str(folder / "data"), cwd=folder, name="up") as started:
            while not (folder / "data" / made).exists():
                assert started.process.returncode is None, started.erred()
                await asyncio.sleep(0.002)
            started.stop(signal.SIGKILL)
            await started.ended()
    async with up(folder) as started:
        assert len(await listed(started, source=demo.SOURCE)) > 200
        async with started.client("operator.json") as client:
            assert (await client.get("/tenants")).status_code == 200


async def test_where_the_demo_was_suspended_the_operator_is_met(folder: Path) -> None:
    async with up(folder) as started, started.client("operator.json") as client:
        changed = await client.patch("/tenants/demo", json={"status": "suspended"})
        assert changed.status_code == 200
        started.stop()
        await started.ended()
    async with up(folder) as started:
        assert started.profile["tenant"] == "operator"
        for command in printed_commands(started):
            ended = await run("bash", "-c", command, cwd=folder)
            assert (ended.status, ended.err) == (0, "")


async def test_logins_of_another_database_beside_one_of_our_own_are_a_mistake(folder: Path) -> None:
    env = environment(query_database_url="postgresql://q@db.example/auditlog")
    ended = await auditlog("up", "--port", "0", "--data-dir", folder / "data", cwd=folder, env=env)
    assert (ended.status, ended.out) == (1, "")
    assert "AUDITLOG_QUERY_DATABASE_URL: set AUDITLOG_DATABASE_URL as well" in ended.err
    assert "Traceback" not in ended.err
