"""
The ports `TenantDirectory`, `TenantKeys` (every login) and `TenantRegistry` (admin's login) on PostgreSQL.

Reads go through the views of `auditlog_directory`, which show the tenant that the transaction is bound to. The binding
ends with the transaction, so that no connection goes back to its pool with one.
"""

# Statements are put together from the lists of columns below and nothing else; every value is a bound parameter.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from audit_contracts.errors import (
    AlreadyExists,
    DirectoryUnavailable,
    NotFound,
    OutcomeUnknown,
    Outdated,
    WrongState,
)
from audit_contracts.masking_policy import MaskingPolicy
from audit_contracts.ports.event_queue import Message
from audit_contracts.ports.key_store import KeyStore
from audit_contracts.ports.tenant_directory import (
    ApiKey,
    IngestMode,
    KeyGeneration,
    OutboxDepth,
    Record,
    RecordOfNew,
    Tenant,
    TenantChange,
    TenantChanged,
    TenantLimits,
    TenantStatus,
)
from audit_contracts.ports.tenant_keys import ROTATING, KeyPurpose, NewTenantKey, TenantKey
from audit_contracts.principal import DataScope, Permission, Role, TenantId

ACQUIRE_TIMEOUT_S: Final = 5.0
MODE_FACT: Final = "mode"
MODE_DEVELOPMENT: Final = "development"
"""The value of the fact `mode` by which `auditlog up` marks a database that it made itself."""

# The driver's internal error is what it says of a connection that was cut in the middle of something.
_CUT_OFF: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
_NO_TENANT: Final = "there is no such tenant"
_NO_API_KEY: Final = "the tenant has no such API key"

_TENANT: Final = "tenant, name, status, ingest, masking, limits, retention_days, created_at, version"
_API_KEY: Final = (
    "tenant, key_id, name, role, scope, data_scope, secret_hash, created_at, created_by, expires_at, revoked_at, "
    "last_used_at"
)
_TENANT_KEY: Final = "tenant, purpose, key_id, generation, wrapped, created_at"

_CHANGE_TENANT: Final = f"""
UPDATE auditlog.tenants SET
    name = coalesce($2, name), status = coalesce($3, status), ingest = coalesce($4, ingest),
    masking = coalesce($5, masking), limits = coalesce($6, limits), retention_days = coalesce($7, retention_days),
    version = version + 1
WHERE tenant = $1
RETURNING {_TENANT}
"""
_ROTATE: Final = """
INSERT INTO auditlog.tenant_keys (tenant, purpose, generation, key_id, wrapped)
SELECT $1, new.purpose, 1 + coalesce(max(old.generation), 0), new.key_id, new.wrapped
FROM unnest($2::text[], $3::uuid[], $4::bytea[]) AS new (purpose, key_id, wrapped)
LEFT JOIN auditlog.tenant_keys old ON old.tenant = $1 AND old.purpose = new.purpose
GROUP BY new.purpose, new.key_id, new.wrapped
RETURNING purpose, generation, key_id, created_at
"""
_REVOKE: Final = f"""
UPDATE auditlog.api_keys SET revoked_at = coalesce(revoked_at, auditlog.now())
WHERE tenant = $1 AND key_id = $2
RETURNING {_API_KEY}
"""
_PUT_INTO_OUTBOX: Final = """
INSERT INTO auditlog.outbox (tenant, batch_id, body) SELECT * FROM unnest($1::text[], $2::uuid[], $3::bytea[])
"""
_OUTBOX_DEPTH: Final = """
SELECT count(*), coalesce(extract(epoch FROM auditlog.now() - min(written_at)), 0)::double precision
FROM auditlog.outbox
"""

_encode_json = msgspec.json.Encoder().encode


class PostgresTenantDirectory:
    """The ports `TenantDirectory` and `TenantKeys` over a part's pool, which belongs to who opened it."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def tenant(self, tenant: TenantId) -> Tenant:
        async with self._bound(tenant) as connection:
            row = await connection.fetchrow(f"SELECT {_TENANT} FROM auditlog_directory.tenants")
        if row is None:
            raise NotFound(_NO_TENANT)
        return _tenant(row)

    async def api_key(self, tenant: TenantId, key_id: UUID) -> ApiKey:
        async with self._bound(tenant) as connection:
            row = await connection.fetchrow(
                f"SELECT {_API_KEY} FROM auditlog_directory.api_keys WHERE key_id = $1", key_id
            )
        if row is None:
            raise NotFound(_NO_API_KEY)
        return _api_key(row)

    async def is_development(self) -> bool:
        async with self._reached() as connection:
            mode = await connection.fetchval("SELECT value FROM auditlog.facts WHERE name = $1", MODE_FACT)
        return bool(mode == MODE_DEVELOPMENT)

    async def current(self, tenant: TenantId, purpose: KeyPurpose) -> TenantKey:
        async with self._bound(tenant) as connection:
            row = await connection.fetchrow(
                f"SELECT {_TENANT_KEY} FROM auditlog_directory.tenant_keys WHERE purpose = $1 "
                "ORDER BY generation DESC LIMIT 1",
                purpose.value,
            )
        if row is None:
            raise NotFound(f"there is no such tenant, or no {purpose.value} key of it that this login is shown")
        return _tenant_key(row)

    async def by_id(self, tenant: TenantId, key_id: UUID) -> TenantKey:
        async with self._bound(tenant) as connection:
            row = await connection.fetchrow(
                f"SELECT {_TENANT_KEY} FROM auditlog_directory.tenant_keys WHERE key_id = $1", key_id
            )
        if row is None:
            raise NotFound("the tenant has no key of this id that this login is shown")
        return _tenant_key(row)

    @asynccontextmanager
    async def _reached(self) -> AsyncIterator[PoolConnectionProxy[Any]]:
        try:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection
        except (*_CUT_OFF, asyncpg.PostgresError) as exc:
            raise DirectoryUnavailable("the tenants can't be read now") from exc

    @asynccontextmanager
    async def _bound(self, tenant: TenantId) -> AsyncIterator[PoolConnectionProxy[Any]]:
        async with self._reached() as connection, connection.transaction(readonly=True):
            await connection.execute("SELECT set_config('auditlog.tenant', $1, true)", tenant)
            yield connection


class PostgresTenantRegistry(PostgresTenantDirectory):
    """The port `TenantRegistry` over the pool of the login `auditlog_admin`."""

    def __init__(self, pool: asyncpg.Pool[Any], *, key_store: KeyStore) -> None:
        super().__init__(pool)
        self._key_store = key_store

    async def create_tenant(
        self, tenant: TenantId, *, name: str, first_key: ApiKey | None = None, record: RecordOfNew | None = None
    ) -> Tenant:
        keys = await self._new_keys(tenant, KeyPurpose)
        async with self._changing() as connection:
            try:
                row = await connection.fetchrow(
                    f"SELECT {_TENANT} FROM auditlog.create_tenant($1, $2, $3, $4, $5)",
                    tenant,
                    name,
                    *_columns(keys),
                )
            except asyncpg.UniqueViolationError as exc:
                raise AlreadyExists("there is or was a tenant of this id; an id is never used again") from exc
            if first_key is not None:
                await _insert_api_key(connection, first_key)
            made = _tenant(row)
            if record is not None:
                await _put_into_outbox(connection, record(made, keys))
        return made

    async def tenants(self, *, after: TenantId | None, limit: int) -> Sequence[Tenant]:
        async with self._reached() as connection:
            rows = await connection.fetch(
                f"SELECT {_TENANT} FROM auditlog.tenants WHERE tenant > $1 ORDER BY tenant LIMIT $2",
                after or "",
                limit,
            )
        return [_tenant(row) for row in rows]

    async def change_tenant(
        self, tenant: TenantId, change: TenantChange, *, record: Record[TenantChanged] | None = None
    ) -> TenantChanged:
        async with self._changing() as connection:
            before = await _locked(connection, tenant, change.version)
            row = await connection.fetchrow(
                _CHANGE_TENANT,
                tenant,
                change.name,
                change.status,
                change.ingest,
                None if change.masking is None else _encode_json(change.masking).decode(),
                None if change.limits is None else _encode_json(change.limits).decode(),
                change.retention_days,
            )
            changed = TenantChanged(before, _tenant(row))
            if record is not None:
                await _put_into_outbox(connection, record(changed))
        return changed

    async def delete_tenant(
        self, tenant: TenantId, *, version: int | None = None, record: Record[TenantChanged] | None = None
    ) -> TenantChanged:
        async with self._changing() as connection:
            before = await _locked(connection, tenant, version)
            if before.status is not TenantStatus.SUSPENDED:
                raise WrongState("a tenant must be suspended before it is deleted")
            row = await connection.fetchrow(_CHANGE_TENANT, tenant, None, TenantStatus.DELETED, None, None, None, None)
            deleted = TenantChanged(before, _tenant(row))
            if record is not None:
                await _put_into_outbox(connection, record(deleted))
        return deleted

    async def rotate_keys(
        self, tenant: TenantId, *, record: Record[Sequence[KeyGeneration]] | None = None
    ) -> Sequence[KeyGeneration]:
        keys = await self._new_keys(tenant, ROTATING)
        async with self._changing() as connection:
            await _locked(connection, tenant, None)
            rows = await connection.fetch(_ROTATE, tenant, *_columns(keys))
            rotated = sorted((_generation(row) for row in rows), key=lambda generation: generation.purpose)
            if record is not None:
                await _put_into_outbox(connection, record(rotated))
        return rotated

    async def create_api_key(
        self, key: ApiKey, *, in_place_of: UUID | None = None, record: Record[ApiKey] | None = None
    ) -> None:
        async with self._changing() as connection:
            await _locked(connection, key.tenant, None)
            await _insert_api_key(connection, key)
            if in_place_of is not None:
                await connection.execute(_REVOKE, key.tenant, in_place_of)
            if record is not None:
                await _put_into_outbox(connection, record(key))

    async def api_keys(self, tenant: TenantId, *, before: UUID | None, limit: int) -> Sequence[ApiKey]:
        async with self._reached() as connection:
            rows = await connection.fetch(
                f"SELECT {_API_KEY} FROM auditlog.api_keys "
                "WHERE tenant = $1 AND ($2::uuid IS NULL OR key_id < $2) ORDER BY key_id DESC LIMIT $3",
                tenant,
                before,
                limit,
            )
        return [_api_key(row) for row in rows]

    async def revoke_api_key(self, tenant: TenantId, key_id: UUID, *, record: Record[ApiKey] | None = None) -> ApiKey:
        async with self._changing() as connection:
            row = await connection.fetchrow(_REVOKE, tenant, key_id)
            if row is None:
                raise NotFound(_NO_API_KEY)
            revoked = _api_key(row)
            if record is not None:
                await _put_into_outbox(connection, record(revoked))
        return revoked

    @asynccontextmanager
    async def taken_from_outbox(self, *, messages_max: int) -> AsyncIterator[Sequence[Message]]:
        async with self._changing() as connection:
            rows = await connection.fetch("SELECT tenant, batch_id, body FROM auditlog.take_outbox($1)", messages_max)
            yield [Message(TenantId(row["tenant"]), row["batch_id"], row["body"]) for row in rows]

    async def outbox_depth(self) -> OutboxDepth:
        async with self._reached() as connection:
            row = await connection.fetchrow(_OUTBOX_DEPTH)
        assert row is not None  # noqa: S101 - an aggregate always answers one row
        return OutboxDepth(*row)

    async def _new_keys(self, tenant: TenantId, purposes: Iterable[KeyPurpose]) -> Mapping[KeyPurpose, NewTenantKey]:
        made = {purpose: await self._key_store.new_data_key(tenant, purpose.value) for purpose in purposes}
        return {purpose: NewTenantKey(uuid4(), key.plain, key.wrapped) for purpose, key in made.items()}

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[PoolConnectionProxy[Any]]:
        """A transaction whose end is known, or told to be unknown."""
        committing = False
        try:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection, connection.transaction():
                yield connection
                committing = True
        except (*_CUT_OFF, asyncpg.PostgresError) as exc:
            # An error that the server tells is a commit undone, except where it ends the session meanwhile.
            if committing and isinstance(exc, (*_CUT_OFF, asyncpg.OperatorInterventionError)):
                raise OutcomeUnknown("the connection was lost in the commit; look before repeating") from exc
            raise DirectoryUnavailable("nothing was changed: the database refused, or can't be reached") from exc


async def _locked(connection: PoolConnectionProxy[Any], tenant: TenantId, version: int | None) -> Tenant:
    """The tenant as nobody else changes it until the transaction ends."""
    row = await connection.fetchrow(
        f"SELECT {_TENANT} FROM auditlog.tenants WHERE tenant = $1 FOR NO KEY UPDATE", tenant
    )
    if row is None or row["status"] == TenantStatus.DELETED:
        raise NotFound(_NO_TENANT)
    if version is not None and row["version"] != version:
        raise Outdated(f"the tenant is at version {row['version']}")
    return _tenant(row)


def _columns(keys: Mapping[KeyPurpose, NewTenantKey]) -> tuple[list[str], list[UUID], list[bytes]]:
    made = keys.values()
    return [purpose.value for purpose in keys], [key.key_id for key in made], [key.wrapped for key in made]


async def _put_into_outbox(connection: PoolConnectionProxy[Any], messages: Sequence[Message]) -> None:
    await connection.execute(
        _PUT_INTO_OUTBOX,
        [message.tenant for message in messages],
        [message.batch_id for message in messages],
        [message.body for message in messages],
    )


async def _insert_api_key(connection: PoolConnectionProxy[Any], key: ApiKey) -> None:
    await connection.execute(
        "INSERT INTO auditlog.api_keys (tenant, key_id, name, role, scope, data_scope, secret_hash, created_at, "
        "created_by, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        key.tenant,
        key.key_id,
        key.name,
        key.role,
        None if key.scope is None else sorted(key.scope),
        _encode_json(key.data_scope).decode(),
        key.secret_hash,
        key.created_at,
        key.created_by,
        key.expires_at,
    )


def _tenant(row: Any) -> Tenant:
    try:
        masking = msgspec.json.decode(row["masking"], type=MaskingPolicy)
        limits = msgspec.json.decode(row["limits"], type=TenantLimits)
    except msgspec.DecodeError as exc:
        # A policy that a newer version wrote, say. To go on without it would be to go on unmasked.
        raise DirectoryUnavailable("the tenant's policy can't be read by this version") from exc
    return Tenant(
        tenant_id=TenantId(row["tenant"]),
        name=row["name"],
        status=TenantStatus(row["status"]),
        ingest=IngestMode(row["ingest"]),
        masking=masking,
        limits=limits,
        retention_days=row["retention_days"],
        created_at=row["created_at"],
        version=row["version"],
    )


def _api_key(row: Any) -> ApiKey:
    values = dict(row)
    scope = values.pop("scope")
    return ApiKey(
        **{
            **values,
            "tenant": TenantId(row["tenant"]),
            "role": Role(row["role"]),
            "scope": None if scope is None else frozenset(map(Permission, scope)),
            "data_scope": msgspec.json.decode(row["data_scope"], type=DataScope),
        }
    )


def _tenant_key(row: Any) -> TenantKey:
    return TenantKey(**{**dict(row), "tenant": TenantId(row["tenant"]), "purpose": KeyPurpose(row["purpose"])})


def _generation(row: Any) -> KeyGeneration:
    return KeyGeneration(**{**dict(row), "purpose": KeyPurpose(row["purpose"])})
