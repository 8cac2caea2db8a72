"""What a person sees on a terminal, where a script would get lines."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import orjson
import pytest

from audit_allinone.data_folder import DataFolder
from audit_allinone.demo import TENANT
from tests.command import AUDITLOG, Up, environment, up
from tests.services import short_folder


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Up]:
    with short_folder() as folder:
        async with up(folder) as started:
            yield started


async def seen(cwd: Path, env: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Exit status and all that a terminal of 200 columns is sent."""
    outer, inner = os.openpty()
    env = {**env, "TERM": "xterm-256color", "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(AUDITLOG, *arguments, cwd=cwd, env=env, stdout=inner, stderr=inner)
    os.close(inner)
    with os.fdopen(outer, "rb", closefd=True) as screen:
        text = await asyncio.to_thread(_all_of, screen.fileno())
    return await process.wait(), text.decode()


def _all_of(descriptor: int) -> bytes:
    chunks: list[bytes] = []
    while True:
        try:
            chunk = os.read(descriptor, 65_536)
        except OSError:  # how Linux tells that the other end is closed
            return b"".join(chunks)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


async def test_search_shows_a_table(server: Up) -> None:
    status, text = await seen(server.cwd, server.env(), "search", "--action", "LOGIN", "--limit", "3", "--total")
    assert status == 0
    head, *rows, last = text.strip().splitlines()
    assert "time (UTC)" in head
    assert len(rows) == 3
    assert all("LOGIN" in row and "bruno.keller" in row for row in rows)
    assert last.startswith("3 entries of ")


async def test_what_others_wrote_can_not_steer_the_terminal(server: Up) -> None:
    user = f"eve\x1b[2J[bold]{uuid.uuid4().hex}"
    async with server.client() as client:
        entry = {"user_id": user, "action": "LOGIN", "resource_type": "user", "resource_id": "eve"}
        posted = (await client.post("/logs", json=entry)).raise_for_status().json()
        await client.get(f"/logs/{posted['id']}", params={"wait_ms": 10_000})
    _, text = await seen(server.cwd, server.env(), "search", "--resource-id", "eve")
    assert "\x1b[2J" not in text
    assert "eve\N{REPLACEMENT CHARACTER}[2J[bold]" in text


async def test_an_import_shows_how_far_it_is_and_takes_the_bar_away(server: Up) -> None:
    entry = {"user_id": "ann", "action": "BAR", "resource_type": "door", "resource_id": "d-1"}
    (server.cwd / "bar.ndjson").write_bytes(b"".join(orjson.dumps(entry) + b"\n" for _ in range(3_000)))
    status, text = await seen(server.cwd, server.env(), "import", "bar.ndjson", "--format", "ndjson")
    assert status == 0
    assert "importing" in text
    assert "entries, " in text
    assert "3,000 entries accepted" in text.splitlines()[-1]


async def test_settings_are_a_table_that_tells_where_each_comes_from(server: Up) -> None:
    status, text = await seen(server.cwd, environment(port="9000"), "config")
    assert status == 0
    (row,) = (line for line in text.splitlines() if "AUDITLOG_PORT" in line)
    assert "9000" in row
    assert "environment" in row


async def test_dead_letters_are_a_table(server: Up) -> None:
    connection = await asyncpg.connect(DataFolder(server.data).login_url("projector"))
    try:
        await connection.execute(
            "INSERT INTO auditlog_queue.messages (tenant, batch_id, body) VALUES ($1, $2, $3)",
            TENANT,
            uuid.uuid4(),
            b"no sealed batch",
        )
    finally:
        await connection.close()
    await server.drained()
    env = environment(data_dir=str(server.data))
    status, text = await seen(server.cwd, env, "dead-letters", "list", "--tenant", TENANT)
    assert status == 0
    assert "reason" in text.splitlines()[0]
    assert "seal_broken" in text
