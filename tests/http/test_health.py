"""Ready means that each part can serve something; alive means that the process answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from audit_contracts.errors import LedgerUnavailable
from audit_kit import health
from audit_kit.health import health_part
from audit_kit.part import Part, ReadyCheck
from tests.kit_world import world


async def passes() -> None: ...


async def fails() -> None:
    raise LedgerUnavailable("postgresql://ann:hunter2@db is down")


async def hangs() -> None:
    await asyncio.Event().wait()


async def readiness(*checks: Callable[[], Awaitable[None]], is_draining: bool = False) -> tuple[int, object]:
    parts = [Part(name=check.__name__, ready_checks=[ReadyCheck(name=check.__name__, check=check)]) for check in checks]
    async with world([health_part(parts, is_draining=lambda: is_draining)]) as opened, opened.client("") as client:
        assert (await client.get("/livez")).json() == {"status": "ok"}
        answer = await client.get("/readyz")
        assert "hunter2" not in answer.text
        return answer.status_code, answer.json()


async def test_it_is_ready_when_every_check_passes() -> None:
    assert await readiness(passes) == (200, {"status": "ok", "checks": {"passes": "ok"}})


async def test_one_part_that_can_serve_nothing_is_enough_not_to_be() -> None:
    assert await readiness(passes, fails) == (503, {"status": "failed", "checks": {"passes": "ok", "fails": "failed"}})


async def test_a_check_that_hangs_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 0.01)
    assert await readiness(hangs) == (503, {"status": "failed", "checks": {"hangs": "failed"}})


async def test_a_process_that_drains_is_not_ready() -> None:
    assert await readiness(passes, is_draining=True) == (503, {"status": "draining", "checks": {}})


async def test_metrics_come_in_prometheus_form_with_requests_by_template() -> None:
    async with world([health_part([], is_draining=lambda: False)]) as opened, opened.client("") as client:
        await client.get("/livez")
        await client.get("/nowhere/else")
        text = (await client.get("/metrics", headers={"Accept": "text/plain"})).text
    assert 'auditlog_http_requests_total{part="health",route="GET /livez",status="2xx"}' in text
    assert 'auditlog_http_requests_total{part="-",route="-",status="4xx"}' in text
    assert "/nowhere" not in text
    assert "process_resident_memory_bytes" in text
