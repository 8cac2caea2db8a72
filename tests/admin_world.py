"""Admin on real parts: its own login and queue on a fresh PostgreSQL, behind the gate, in development mode."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_admin.operator import bootstrap_operator
from audit_admin.outbox_relay import OutboxRelay
from audit_admin.part import admin_part
from audit_backends.event_queue.postgres import PostgresEventQueue
from audit_backends.key_store.file import FileKeyStore
from audit_backends.postgres_pool import postgres_pool
from audit_backends.tenant_directory.postgres import PostgresTenantDirectory, PostgresTenantRegistry
from audit_contracts.codec import BatchCodec, read_head
from audit_contracts.event import Changes, Event
from audit_contracts.ports.event_queue import EventQueue
from audit_contracts.principal import Permission, Role, TenantId
from audit_kit.access import AccessRecorder
from audit_kit.auth.authenticator import opened_authenticator
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.batcher import Batcher
from audit_kit.directory import CachedDirectory
from audit_kit.keyring import Keyring
from audit_kit.part import Part
from audit_kit.running import opened
from tests.ingest_world import FaultyQueue
from tests.kit_world import ManualClock
from tests.services import Database

OPERATOR = TenantId("operator")


@dataclass(frozen=True, kw_only=True)
class AdminWorld:
    """A client of admin, and what stands behind it."""

    http: httpx.AsyncClient
    part: Part
    clock: ManualClock
    issuer: DevIssuer
    registry: PostgresTenantRegistry
    access: AccessRecorder
    relay: OutboxRelay
    queue: FaultyQueue
    receiver: EventQueue
    keyring: Keyring
    owner: asyncpg.Connection[Any]
    operator_key: str

    def token(
        self,
        tenant: str,
        role: Role = Role.ADMIN,
        *,
        subject: str = "ada",
        scope: set[Permission] | None = None,
    ) -> str:
        """A token as the issuer gives it."""
        now_s = self.clock.now_us() // 1_000_000
        return self.issuer.mint(tenant=TenantId(tenant), subject=subject, role=role, now_s=now_s, scope=scope)

    async def call(
        self, method: str, path: str, json: object = None, *, token: str | None, **headers: str
    ) -> httpx.Response:
        """A request under /api/v1 with `token`; header names are given with underscores."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        body = {} if json is None else {"json": json}
        return await self.http.request(method, f"/api/v1{path}", headers=sent, **cast(Any, body))

    async def new_tenant(self, tenant: str) -> dict[str, Any]:
        """A tenant as the operator creates it: the answer."""
        answer = await self.call(
            "POST", "/tenants", {"tenant_id": tenant, "name": tenant.title()}, token=self.operator_key
        )
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    async def recorded(self, tenant: str) -> list[Event]:
        """What was recorded in the tenant's log since this was last asked, for it or another tenant."""
        await self.relay.relay()
        events = []
        while deliveries := await self.receiver.receive(messages_max=1_000, wait_s=0, visibility_s=60):
            await self.receiver.delete(deliveries)
            for delivery in deliveries:
                key_id = read_head(delivery.body).key_id
                key = await self.keyring.transport_key_by_id(delivery.tenant, key_id)
                if delivery.tenant == tenant:
                    events += BatchCodec().open(delivery.tenant, delivery.body, key)
        return events


def changes(event: Event) -> Changes:
    """What a recorded change says of before and after."""
    assert event.changes is not None
    return msgspec.json.decode(event.changes, type=Changes)


@asynccontextmanager
async def admin_world(database: Database) -> AsyncIterator[AdminWorld]:
    """Open it all on `database`, marked for development, with the operator made."""
    async with AsyncExitStack() as stack:
        pools = {
            part: await stack.enter_async_context(postgres_pool(database.url_for(part), part=part))
            for part in ("admin", "projector")
        }
        owner = await asyncpg.connect(database.owner_url)
        stack.push_async_callback(owner.close)
        await owner.execute("INSERT INTO auditlog.facts VALUES ('mode', 'development') ON CONFLICT DO NOTHING")
        clock, key_store = ManualClock(), FileKeyStore(secrets.token_bytes(32))
        registry = PostgresTenantRegistry(pools["admin"], key_store=key_store)
        directory = CachedDirectory(registry, clock=clock)
        keyring = Keyring(tenant_keys=registry, key_store=key_store, clock=clock)
        sender, receiver = PostgresEventQueue(pools["admin"]), PostgresEventQueue(pools["projector"])
        queue = FaultyQueue(sender)
        batcher = Batcher(queue=cast(EventQueue, queue), keyring=keyring, clock=clock, resend_delays_s=())
        for close in (receiver.close, sender.close, batcher.close):
            stack.push_async_callback(close)
        access = AccessRecorder(batcher=batcher, keyring=keyring, directory=directory, clock=clock)
        operator_key = await bootstrap_operator(registry, clock=clock)
        assert operator_key is not None
        issuer = DevIssuer(Ed25519PrivateKey.generate())
        part = admin_part(
            registry=registry,
            directory=directory,
            keyring=keyring,
            queue=cast(EventQueue, queue),
            access=access,
            clock=clock,
            dev_issuer=issuer,
        )
        authenticator = await stack.enter_async_context(
            opened_authenticator(issuers=[], own=[issuer.trusted(clock)], directory=directory, clock=clock)
        )
        gate = await stack.enter_async_context(
            opened([part], authenticator=authenticator, directory=directory, on_refused=access.refused)
        )
        transport = httpx.ASGITransport(gate, raise_app_exceptions=False)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://localhost:8080"))
        yield AdminWorld(
            http=http,
            part=part,
            clock=clock,
            issuer=issuer,
            registry=registry,
            access=access,
            relay=OutboxRelay(registry=registry, queue=cast(EventQueue, queue)),
            queue=queue,
            receiver=receiver,
            keyring=Keyring(tenant_keys=PostgresTenantDirectory(pools["projector"]), key_store=key_store, clock=clock),
            owner=owner,
            operator_key=operator_key,
        )
