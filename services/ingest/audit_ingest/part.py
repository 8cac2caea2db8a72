"""The part `ingest`: takes entries, and knows no way to read one back."""

from __future__ import annotations

from audit_contracts.ports.clock import Clock
from audit_contracts.principal import Permission
from audit_ingest import openapi
from audit_ingest.routes import BULK_PATH, JSON, NDJSON, SINGLE_PATH, Bounds, IngestRoutes
from audit_kit.access import AccessRecorder
from audit_kit.batcher import Batcher
from audit_kit.keyring import Keyring
from audit_kit.part import Part, RawRoute
from audit_kit.policies import Access
from audit_kit.rate_limits import RateLimits

_PRODUCERS = Access(permission=Permission.LOGS_WRITE)


def ingest(
    *,
    batcher: Batcher,
    keyring: Keyring,
    rate_limits: RateLimits,
    access: AccessRecorder,
    clock: Clock,
    bounds: Bounds,
) -> Part:
    """
    POST /api/v1/logs and /api/v1/logs/bulk.

    It is ready whatever its queue does, since it answers 503 itself. `access` records the attempts that are refused;
    the process must close `batcher` after the part's workers.
    """
    routes = IngestRoutes(batcher=batcher, keyring=keyring, rate_limits=rate_limits, clock=clock, bounds=bounds)
    return Part(
        name="ingest",
        routes=[
            RawRoute(
                method="POST",
                path=SINGLE_PATH,
                handler=routes.post_log,
                policy=_PRODUCERS,
                operation=openapi.post_log(bounds),
                consumes=(JSON,),
            ),
            RawRoute(
                method="POST",
                path=BULK_PATH,
                handler=routes.post_bulk,
                policy=_PRODUCERS,
                operation=openapi.post_bulk(bounds),
                consumes=(JSON, *NDJSON),
            ),
        ],
        schemas=openapi.schemas(),
        workers=[access.worker()],
    )
