"""Query behind its gate on a real database, filled as the projector fills it, each part under its own login."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_backends.event_queue.postgres import PostgresEventQueue
from audit_backends.key_store.file import FileKeyStore
from audit_backends.ledger.postgres import PostgresLedger
from audit_backends.ledger.postgres_reader import PostgresLedgerReader
from audit_backends.postgres_pool import postgres_pool
from audit_backends.tenant_directory.postgres import PostgresTenantDirectory, PostgresTenantRegistry
from audit_contracts.event import Event
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.ledger import LedgerReader, PreparedBatch, PreparedEvent
from audit_contracts.ports.tenant_directory import ApiKey
from audit_contracts.principal import DataScope, Role, TenantId
from audit_contracts.record import OwnerKey, Sealer
from audit_kit.access import AccessRecorder
from audit_kit.auth.api_keys import new_api_key
from audit_kit.auth.authenticator import opened_authenticator
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.batcher import Batcher
from audit_kit.clock import SystemClock
from audit_kit.gate import Gate
from audit_kit.keyring import Keyring
from audit_kit.part import Part
from audit_kit.running import opened
from audit_query.part import query
from tests.services import Database


@dataclass
class QueryWorld:
    """What a test holds: clients of query, and the other end of the ledger."""

    app: Gate
    part: Part
    reader: LedgerReader
    ledger: PostgresLedger
    registry: PostgresTenantRegistry
    projector_keys: Keyring
    owner: asyncpg.Connection[Any]
    issuer: DevIssuer
    sealer: Sealer = field(default_factory=Sealer)
    owner_keys: dict[tuple[TenantId, str], OwnerKey] = field(default_factory=dict)

    async def new_tenant(self) -> TenantId:
        """An active tenant with keys of its own, of a name that no other test has."""
        name = f"t{uuid.uuid4().hex}"
        return (await self.registry.create_tenant(TenantId(name), name=name)).tenant_id

    async def append(self, tenant: TenantId, *events: Event) -> None:
        """Record events, each sealed under its owner's key."""
        if not events:
            return
        log_id = await self.ledger.log_id(tenant)
        prepared = [
            PreparedEvent(event, self.sealer.seal(log_id, event, await self._owner_key(tenant, event.owner)))
            for event in events
        ]
        done = await self.ledger.append([PreparedBatch(tenant, log_id, uuid.uuid4(), prepared)])
        assert done.appended == len(events)

    async def fill(self, tenant: TenantId, days: Sequence[Sequence[Event]], *, first_day: datetime) -> None:
        """Record events on successive days."""
        for number, of_day in enumerate(days):
            await self.stop_clock(first_day.replace(day=first_day.day + number))
            await self.append(tenant, *of_day)

    async def stop_clock(self, at: datetime) -> None:
        """Let the database's time stand at `at`."""
        await self.owner.execute(
            "CREATE OR REPLACE FUNCTION auditlog.now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE "
            f"AS $$SELECT timestamptz '{at.isoformat()}'$$"
        )

    def client(
        self, tenant: TenantId, role: Role = Role.AUDITOR, *, subject: str = "ann", **more: Any
    ) -> httpx.AsyncClient:
        """A client with a token of the tenant."""
        token = self.issuer.mint(
            tenant=tenant, subject=subject, role=role, now_s=SystemClock().now_us() // 1_000_000, **more
        )
        return self._client(token)

    async def scoped_client(self, tenant: TenantId, data_scope: DataScope) -> httpx.AsyncClient:
        """A client with a new API key of an auditor who sees no more than `data_scope`."""
        key_id = uuid.uuid4()
        made = new_api_key(tenant, key_id)
        await self.registry.create_api_key(
            ApiKey(
                tenant=tenant,
                key_id=key_id,
                name="scoped",
                role=Role.AUDITOR,
                scope=None,
                data_scope=data_scope,
                secret_hash=made.secret_hash,
                created_at=datetime.now(UTC),
                created_by="test",
                expires_at=None,
                revoked_at=None,
                last_used_at=None,
            )
        )
        return self._client(made.text)

    def _client(self, token: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url="http://test/api/v1",
            headers={"Authorization": f"Bearer {token}"},
        )

    async def _owner_key(self, tenant: TenantId, owner: str) -> OwnerKey:
        held = self.owner_keys.get((tenant, owner))
        if held is None:
            wrapping = await self.projector_keys.owner_wrapping(tenant)
            tag = (await self.projector_keys.lookup_key(tenant)).owner_tag(owner)
            wrapped, held = wrapping.new(tag)
            await self.ledger.add_owner_keys(tenant, [wrapped])
            self.owner_keys[tenant, owner] = held
        return held


@asynccontextmanager
async def open_query(database: Database, *, clock: Clock | None = None) -> AsyncIterator[QueryWorld]:
    """Query and what fills its ledger on `database`, opened and closed with the block."""
    store, issuer = FileKeyStore(secrets.token_bytes(32)), DevIssuer(Ed25519PrivateKey.generate())
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        pools = {
            part: await stack.enter_async_context(postgres_pool(database.url_for(part), part=part, connections_max=4))
            for part in ("query", "projector", "admin")
        }
        owner = await asyncpg.connect(database.owner_url)
        stack.push_async_callback(owner.close)
        directory = PostgresTenantDirectory(pools["query"])
        keys = Keyring(tenant_keys=directory, key_store=store, clock=clock)
        queue = PostgresEventQueue(pools["query"])
        stack.push_async_callback(queue.close)
        batcher = Batcher(queue=queue, keyring=keys, clock=clock)
        stack.push_async_callback(batcher.close)
        access = AccessRecorder(batcher=batcher, keyring=keys, directory=directory, clock=clock)
        reader = PostgresLedgerReader(pools["query"])
        part = query(reader=reader, keyring=keys, access=access, clock=clock)
        authenticator = await stack.enter_async_context(
            opened_authenticator(issuers=[], own=[issuer.trusted(clock)], directory=directory, clock=clock)
        )
        app = await stack.enter_async_context(
            opened([part], authenticator=authenticator, directory=directory, on_refused=access.refused)
        )
        yield QueryWorld(
            app=app,
            part=part,
            reader=reader,
            ledger=PostgresLedger(pools["projector"]),
            registry=PostgresTenantRegistry(pools["admin"], key_store=store),
            projector_keys=Keyring(
                tenant_keys=PostgresTenantDirectory(pools["projector"]), key_store=store, clock=clock
            ),
            owner=owner,
            issuer=issuer,
        )
        await access.flush()
