"""All parts together in this process, wired as the command wires them, on a fresh PostgreSQL and without a socket."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_allinone import preparing
from audit_allinone.wiring import LOGINS, Places, wired
from audit_contracts.principal import OPERATOR_TENANT, Permission, Role, TenantId
from audit_kit.auth.authenticator import opened_authenticator
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.clock import SystemClock
from audit_kit.docs import docs_part
from audit_kit.gate import Gate
from audit_kit.health import health_part
from audit_kit.part import Worker
from audit_kit.running import opened
from audit_kit.settings import Settings
from tests.services import Database

PARTS = tuple(LOGINS)


@dataclass(frozen=True)
class WholeWorld:
    """What a test holds: the gate in front of everything, and an issuer that all tenants trust."""

    gate: Gate
    issuer: DevIssuer
    operator_key: str

    def token(
        self, tenant: str, role: Role = Role.ADMIN, *, subject: str = "ann", scope: set[Permission] | None = None
    ) -> str:
        """A JWT."""
        now_s = SystemClock().now_us() // 1_000_000
        return self.issuer.mint(tenant=TenantId(tenant), subject=subject, role=role, now_s=now_s, scope=scope)

    def client(self, credential: str | None) -> httpx.AsyncClient:
        """A client with that JWT or API key; None sends none. Paths begin at the root."""
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        transport = httpx.ASGITransport(self.gate, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost:8080", headers=headers)

    async def new_tenant(self) -> TenantId:
        """A tenant of a name that no other test has, made as the operator makes it."""
        name = f"t{uuid.uuid4().hex}"
        async with self.client(self.operator_key) as operator:
            made = await operator.post("/api/v1/tenants", json={"tenant_id": name, "name": name})
            assert made.status_code == 201, made.text
        return TenantId(name)

    async def change(self, tenant: TenantId, **fields: Any) -> None:
        """Change a tenant as the operator does."""
        async with self.client(self.operator_key) as operator:
            changed = await operator.patch(f"/api/v1/tenants/{tenant}", json=fields)
            assert changed.status_code == 200, changed.text

    async def delete(self, tenant: TenantId) -> None:
        """Suspend and delete a tenant as the operator does."""
        await self.change(tenant, status="suspended")
        async with self.client(self.operator_key) as operator:
            assert (await operator.delete(f"/api/v1/tenants/{tenant}")).status_code == 200

    async def new_key(self, tenant: TenantId, role: Role, **fields: Any) -> dict[str, Any]:
        """A new API key of the tenant, as its admin makes it: the answer."""
        if tenant == OPERATOR_TENANT and role is Role.ADMIN and not fields:
            return {"api_key": self.operator_key}
        async with self.client(self.token(tenant)) as admin:
            made = await admin.post(f"/api/v1/tenants/{tenant}/keys", json={"name": role, "role": role, **fields})
            assert made.status_code == 201, made.text
            answer: dict[str, Any] = made.json()
            return answer


@asynccontextmanager
async def whole_world(database: Database, folder: Path) -> AsyncIterator[WholeWorld]:
    """
    Everything on `database`, marked for development, its workers running; closed with the block.

    Args:
        folder: where the root key is made.
    """
    clock, issuer, settings = SystemClock(), DevIssuer(Ed25519PrivateKey.generate()), Settings.read()
    key_store = (folder / "root-key").absolute().as_uri()
    await preparing.make_root_key(database.owner_url, key_store)
    operator_key = await preparing.ensure_operator(database.owner_url, key_store, clock=clock)
    assert operator_key is not None
    await preparing.mark_development(database.owner_url)
    places = Places(databases={login: database.url_for(login) for login in LOGINS.values()}, key_store=key_store)
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(
            wired(PARTS, places=places, settings=settings, clock=clock, dev_issuer=issuer)
        )
        authenticator = await stack.enter_async_context(
            opened_authenticator(issuers=[], own=[issuer.trusted(clock)], directory=made.directory, clock=clock)
        )
        served = [*made.parts, docs_part(made.parts), health_part(made.parts, is_draining=lambda: False)]
        gate = await stack.enter_async_context(
            opened(served, authenticator=authenticator, directory=made.directory, on_refused=made.on_refused)
        )
        stop = asyncio.Event()
        workers = await stack.enter_async_context(asyncio.TaskGroup())
        for part in made.parts:
            for worker in part.workers:
                workers.create_task(_run(worker, stop))
        try:
            yield WholeWorld(gate=gate, issuer=issuer, operator_key=operator_key)
        finally:
            stop.set()


async def _run(worker: Worker, stop: asyncio.Event) -> None:
    await worker.run(stop)
