"""Health for orchestrators and metrics for Prometheus: `/livez`, `/readyz`, `/metrics`, without a credential."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import orjson
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from audit_contracts.errors import AuditLogError
from audit_kit.metrics import REGISTRY
from audit_kit.part import Part, RawRoute, ReadyCheck
from audit_kit.policies import PUBLIC

CHECK_TIMEOUT_S: Final = 2.0

log = structlog.get_logger(__name__)


def health_part(parts: Sequence[Part], *, is_draining: Callable[[], bool]) -> Part:
    """
    The health of `parts`.

    `/livez` is 200 while the process answers at all. `/readyz` is 503 while it drains, and where one of the parts can
    serve nothing; its body names the checks, and never says why one fails: that is in the logs.
    """
    checks = [check for part in parts for check in part.ready_checks]

    async def livez(_request: Request) -> Response:
        return _json(200, {"status": "ok"})

    async def readyz(_request: Request) -> Response:
        if is_draining():
            return _json(503, {"status": "draining", "checks": {}})
        results = await asyncio.gather(*map(_passes, checks))
        named = {check.name: "ok" if passed else "failed" for check, passed in zip(checks, results, strict=True)}
        return (
            _json(200, {"status": "ok", "checks": named})
            if all(results)
            else _json(503, {"status": "failed", "checks": named})
        )

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Part(
        name="health",
        routes=[
            RawRoute(method="GET", path=path, handler=handler, policy=PUBLIC, operation=None, produces=())
            for path, handler in (("/livez", livez), ("/readyz", readyz), ("/metrics", metrics))
        ],
    )


async def _passes(check: ReadyCheck) -> bool:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check.check()
    except (AuditLogError, OSError, TimeoutError) as exc:
        log.warning("not_ready", check=check.name, error=type(exc).__name__, reason=str(exc))
        return False
    return True


def _json(status: int, document: object) -> Response:
    return Response(orjson.dumps(document), status_code=status, media_type="application/json")
