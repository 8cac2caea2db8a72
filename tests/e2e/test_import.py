"""The real import: all of it, once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from audit_allinone.cloudtrail import entry_of
from audit_allinone.data_folder import DataFolder
from audit_allinone.demo import TENANT
from audit_allinone.embedded_postgres import embedded_postgres
from audit_backends.opening import opened_backends
from audit_contracts.ports.ledger import WrappedOwnerKey
from audit_contracts.principal import TenantId
from audit_contracts.record import Sealer, key_id_of
from audit_kit.clock import SystemClock
from audit_kit.keyring import Keyring
from tests import cloudtrail_data
from tests.command import Up, serving, up
from tests.pipeline import recomputed_leaf_hash
from tests.services import short_folder

CLOUDTRAIL = ("source", "aws.cloudtrail")


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


async def imported(started: Up) -> int:
    """How many entries of the file the ledger holds."""
    async with started.client() as client:
        answer = await client.get("/logs", params={"source": "aws.cloudtrail", "limit": "1", "total": "true"})
        total: int = answer.raise_for_status().json()["total"]
        return total


async def accepted(started: Up) -> float:
    """How many entries ingest has taken since it started."""
    async with started.client() as client:
        metrics = (await client.get(f"{started.url}/metrics")).text
    name = "auditlog_ingest_accepted_events_total "
    return next(float(line.removeprefix(name)) for line in metrics.splitlines() if line.startswith(name))


async def begun(started: Up, before: float) -> None:
    """Return once ingest has taken the first entries of an import, `before` others having been taken earlier."""
    async with asyncio.timeout(60):
        while await accepted(started) == before:  # noqa: ASYNC110 - a process tells no event
            await asyncio.sleep(0.005)


async def settled(started: Up, expected: int) -> None:
    """Return once the ledger holds so many entries of the file; it never holds more."""
    async with asyncio.timeout(60):
        while (count := await imported(started)) != expected:
            assert count < expected
            await asyncio.sleep(0.05)


@asynccontextmanager
async def rows_and_keys(data: Path) -> AsyncIterator[tuple[asyncpg.Connection[Any], Keyring]]:
    """The database of a stopped `auditlog up`, for its owner, and the projector's keys."""
    kept = DataFolder(data)
    async with embedded_postgres(kept.postgres) as server, opened_backends("test") as backends:
        keyring = Keyring(
            tenant_keys=await backends.tenant_directory(kept.login_url("projector")),
            key_store=await backends.key_store(kept.root_key.as_uri()),
            clock=SystemClock(),
        )
        owner = await asyncpg.connect(server.owner_url)
        try:
            yield owner, keyring
        finally:
            await owner.close()


async def verify(data: Path, tenant: TenantId) -> list[asyncpg.Record]:
    """That the tenant's ledger is whole: positions without gaps, each record open and under its leaf hash."""
    async with rows_and_keys(data) as (owner, keyring):
        log_id = await owner.fetchval("SELECT log_id FROM auditlog.heads WHERE tenant = $1", tenant)
        rows = await owner.fetch("SELECT * FROM auditlog.entries WHERE tenant = $1 ORDER BY position", tenant)
        assert [row["position"] for row in rows] == list(range(len(rows)))
        assert len({row["id"] for row in rows}) == len(rows)
        keys = {
            row["key_id"]: WrappedOwnerKey(*row)
            for row in await owner.fetch("SELECT key_id, tag, tenant_key_id, wrapped FROM auditlog.owner_keys")
        }
        sealer = Sealer()
        for row in rows:
            wrapped = keys[key_id_of(row["sealed"])]
            wrapping = await keyring.owner_wrapping_by_id(tenant, wrapped.tenant_key_id)
            opened = sealer.open(log_id, row["id"], row["sealed"], wrapping.open(wrapped))
            assert opened.root() == row["root"]
            assert recomputed_leaf_hash(log_id, row) == row["leaf_hash"]
        return list(rows)


async def test_killed_in_the_middle_and_imported_again_every_record_is_there_exactly_once(folder: Path) -> None:
    file, records = cloudtrail_data.path(), cloudtrail_data.records()
    command = ("import", str(file), "--format", "cloudtrail")
    async with up(folder) as started:
        before = await accepted(started)
        async with serving(*command, cwd=folder, env=started.env(), name="import") as importing:
            await begun(started, before)
            importing.stop(signal.SIGKILL)
            started.stop(signal.SIGKILL)
            await importing.ended()
            await started.ended()
    async with up(folder) as started:
        ended = await started.auditlog(*command)
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.startswith("2,000 entries accepted")
        await settled(started, 2_000)

        again = await started.auditlog(*command)
        assert (again.status, again.err) == (0, "")
        await started.drained()
        assert await imported(started) == 2_000

        found = await started.auditlog("search", "--source", "aws.cloudtrail", "--limit", "5000")
        entries = found.lines
        assert Counter(entry["action"] for entry in entries) == Counter(record["eventName"] for record in records)
        assert {entry["id"] for entry in entries} == {record["eventID"] for record in records}
        assert all(not any(flag.startswith("conflict_of") for flag in entry["flags"]) for entry in entries)

        await _answers_by_user_and_time(started, records)
        started.stop()
        assert await started.ended() == 0
    rows = await verify(started.data, TenantId(TENANT))
    assert sum(row["source"] == "aws.cloudtrail" for row in rows) == 2_000


async def _answers_by_user_and_time(started: Up, records: list[dict[str, Any]]) -> None:
    entries = [entry_of(record) for record in records]
    ((user, _),) = Counter(entry["user_id"] for entry in entries).most_common(1)
    times = sorted(entry["timestamp"] for entry in entries if entry["user_id"] == user)
    since, until = times[len(times) // 3], times[len(times) // 2]
    expected = {entry["id"] for entry in entries if entry["user_id"] == user and since <= entry["timestamp"] < until}
    assert expected
    found = await started.auditlog(
        "search", "--user-id", user, "--from", since, "--to", until, "--limit", "2000", "--sort", "position"
    )
    assert found.status == 0
    assert {entry["id"] for entry in found.lines} == expected
    assert len(found.lines) == len(expected)


async def test_an_import_outlives_a_server_that_is_killed_and_comes_back(folder: Path) -> None:
    command = ("import", str(cloudtrail_data.path()), "--format", "cloudtrail")
    async with up(folder) as started:
        port = int(started.url.rpartition(":")[2])
        before = await accepted(started)
        async with serving(*command, cwd=folder, env=started.env(), name="import") as importing:
            await begun(started, before)
            started.stop(signal.SIGKILL)
            await started.ended()
            async with up(folder, port=port) as back:
                assert importing.process.stdout is not None
                assert (await importing.process.stdout.read()).startswith(b"2,000 entries accepted")
                assert await importing.ended() == 0
                await back.drained()
                assert await imported(back) == 2_000
