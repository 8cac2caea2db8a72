"""Ingest as a process serves it, without a socket: the whole part behind the gate, on the real queue."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_backends.rate_limiter.memory import MemoryRateLimiter
from audit_contracts.ports.tenant_directory import TenantDirectory
from audit_contracts.principal import Role, TenantId
from audit_ingest.part import ingest
from audit_ingest.routes import Bounds
from audit_kit.access import AccessRecorder
from audit_kit.auth.authenticator import opened_authenticator
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.batcher import HELD_BYTES_MAX, Batcher
from audit_kit.gate import Gate
from audit_kit.rate_limits import RateLimits
from audit_kit.running import opened
from tests.ingest_world import IngestWorld

BOUNDS = Bounds(entry_bytes_max=131_072, bulk_entries_max=10_000, bulk_bytes_max=16 * 1024**2, depth_max=32)

ENTRY: dict[str, Any] = {"user_id": "ada", "action": "UPDATE", "resource_type": "invoice", "resource_id": "7"}


def entry(**fields: Any) -> dict[str, Any]:
    """An ordinary entry but for `fields`; None leaves one out."""
    return {name: value for name, value in (ENTRY | fields).items() if value is not None}


def ndjson(*entries: Any) -> bytes:
    """Entries as lines."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in entries)


@dataclass(frozen=True)
class IngestServer:
    """The part, and what a test holds of it."""

    world: IngestWorld
    gate: Gate
    batcher: Batcher
    access: AccessRecorder
    token: Callable[..., str]

    def client(self, tenant: TenantId, role: Role = Role.PRODUCER, subject: str = "producer-1") -> httpx.AsyncClient:
        """A client that holds a token of that tenant and role."""
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.gate),
            base_url="http://test",
            headers={"Authorization": f"Bearer {self.token(tenant, role, subject)}"},
        )


@asynccontextmanager
async def ingest_server(
    world: IngestWorld,
    *,
    directory: TenantDirectory | None = None,
    held_bytes_max: int = HELD_BYTES_MAX,
) -> AsyncIterator[IngestServer]:
    """Open ingest on the world's queue and, unless another is given, directory; it drains at the end."""
    directory = directory or world.directory
    dev = DevIssuer(Ed25519PrivateKey.generate())
    batcher = world.new_batcher(held_bytes_max=held_bytes_max)
    access = AccessRecorder(batcher=batcher, keyring=world.keyring, directory=directory, clock=world.clock)
    part = ingest(
        batcher=batcher,
        keyring=world.keyring,
        rate_limits=RateLimits(MemoryRateLimiter(clock=world.clock)),
        access=access,
        clock=world.clock,
        bounds=BOUNDS,
    )

    def token(tenant: TenantId, role: Role, subject: str) -> str:
        now_s = world.clock.now_us() // 1_000_000
        return dev.mint(tenant=tenant, subject=subject, role=role, now_s=now_s, scope=None)

    async with (
        opened_authenticator(
            issuers=[], own=[dev.trusted(world.clock)], directory=directory, clock=world.clock
        ) as authenticator,
        opened([part], authenticator=authenticator, directory=directory, on_refused=access.refused) as gate,
    ):
        yield IngestServer(world=world, gate=gate, batcher=batcher, access=access, token=token)
        world.queue.passing.set()
        await access.flush()
        await batcher.close()
