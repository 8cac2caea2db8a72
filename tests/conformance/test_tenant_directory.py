"""What every tenant directory and registry promises."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import pytest

from audit_backends.key_store.file import FileKeyStore
from audit_backends.postgres_pool import postgres_pool
from audit_backends.schema.migrations import PARTS
from audit_backends.tenant_directory.postgres import PostgresTenantRegistry
from audit_contracts.errors import (
    AlreadyExists,
    DirectoryUnavailable,
    KeyUnavailable,
    NotFound,
    OutcomeUnknown,
    Outdated,
    QueueUnavailable,
    WrongState,
)
from audit_contracts.ids import uuid7
from audit_contracts.masking_policy import KeyRule, MaskingPolicy, RuleChoice
from audit_contracts.ports.event_queue import Message
from audit_contracts.ports.key_store import DataKey
from audit_contracts.ports.tenant_directory import (
    ApiKey,
    IngestMode,
    Tenant,
    TenantChange,
    TenantChanged,
    TenantLimits,
    TenantRegistry,
    TenantStatus,
)
from audit_contracts.ports.tenant_keys import ROTATING, KeyPurpose, NewTenantKey
from audit_contracts.principal import DataScope, Permission, Role, TenantId
from audit_kit.clock import SystemClock
from audit_kit.keyring import Keyring
from tests.backends import TENANT_DIRECTORIES, OpenDirectory
from tests.events import NOW_US
from tests.services import Database, ThrowawayPostgres

ACME, GLOBEX, NOBODY = TenantId("acme"), TenantId("globex"), TenantId("nobody")


@pytest.fixture(params=TENANT_DIRECTORIES)
async def opened(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[OpenDirectory]:
    async with TENANT_DIRECTORIES[request.param](database) as directory:
        yield directory


def an_api_key(tenant: TenantId = ACME, *, at_us: int = NOW_US, **fields: object) -> ApiKey:
    ordinary = ApiKey(
        tenant=tenant,
        key_id=uuid7(at_us),
        name="billing service",
        role=Role.PRODUCER,
        scope=None,
        data_scope=DataScope(),
        secret_hash=bytes(range(32)),
        created_at=datetime(2026, 9, 21, tzinfo=UTC),
        created_by="https://issuer.example|ada",
        expires_at=None,
        revoked_at=None,
        last_used_at=None,
    )
    return msgspec.structs.replace(ordinary, **fields)


async def test_a_new_tenant_is_active_open_and_readable_by_every_part(opened: OpenDirectory) -> None:
    made = await opened.registry.create_tenant(ACME, name="Acme Ltd.")
    assert made == Tenant(
        tenant_id=ACME,
        name="Acme Ltd.",
        status=TenantStatus.ACTIVE,
        ingest=IngestMode.OPEN,
        masking=MaskingPolicy(),
        limits=TenantLimits(),
        retention_days=365,
        created_at=made.created_at,
        version=1,
    )
    for part in PARTS:
        assert await opened.part[part].tenant(ACME) == made


async def test_a_new_tenant_has_an_empty_log_of_its_own(opened: OpenDirectory) -> None:
    for tenant in (ACME, GLOBEX):
        await opened.registry.create_tenant(tenant, name=tenant)
    heads = await opened.owner.fetch("SELECT tenant, log_id, next_position FROM auditlog.heads")
    assert {head["tenant"]: head["next_position"] for head in heads} == {ACME: 0, GLOBEX: 0}
    assert len({head["log_id"] for head in heads}) == 2


async def test_what_is_not_there_is_not_found(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    directory, registry = opened.part["ingest"], opened.registry
    for call in (
        directory.tenant(NOBODY),
        directory.api_key(ACME, uuid.uuid4()),
        directory.current(NOBODY, KeyPurpose.TRANSPORT),
        directory.by_id(ACME, uuid.uuid4()),
        registry.change_tenant(NOBODY, TenantChange(name="x")),
        registry.delete_tenant(NOBODY),
        registry.rotate_keys(NOBODY),
        registry.create_api_key(an_api_key(NOBODY)),
        registry.revoke_api_key(ACME, uuid.uuid4()),
    ):
        with pytest.raises(NotFound):
            await call


async def test_an_id_is_never_used_again_even_by_two_at_once(opened: OpenDirectory) -> None:
    answers = await asyncio.gather(
        *(opened.registry.create_tenant(ACME, name=f"Acme {i}") for i in range(4)), return_exceptions=True
    )
    assert Counter(type(answer) for answer in answers) == Counter({AlreadyExists: 3, Tenant: 1})
    await opened.registry.change_tenant(ACME, TenantChange(status=TenantStatus.SUSPENDED))
    await opened.registry.delete_tenant(ACME)
    with pytest.raises(AlreadyExists):
        await opened.registry.create_tenant(ACME, name="Acme again")


async def test_a_first_key_is_kept_with_its_tenant_or_not_at_all(opened: OpenDirectory) -> None:
    key = an_api_key()
    await opened.registry.create_tenant(ACME, name="Acme", first_key=key)
    assert await opened.part["query"].api_key(ACME, key.key_id) == key
    with pytest.raises(DirectoryUnavailable):
        await opened.registry.create_tenant(GLOBEX, name="Globex", first_key=an_api_key(GLOBEX, secret_hash=b"short"))
    with pytest.raises(NotFound):
        await opened.registry.tenant(GLOBEX)


async def test_tenants_are_listed_in_order_page_by_page(opened: OpenDirectory) -> None:
    names = [TenantId(name) for name in ("a", "a-b", "a_b", "ab", "b1", "operator")]
    for name in reversed(names):
        await opened.registry.create_tenant(name, name=name)
    assert {tenant.tenant_id for tenant in await opened.registry.tenants(after=None, limit=100)} == set(names)
    listed: list[TenantId] = []
    while page := await opened.registry.tenants(after=listed[-1] if listed else None, limit=2):
        assert len(page) <= 2
        listed += [tenant.tenant_id for tenant in page]
    assert listed == sorted(names)


async def test_a_change_sets_what_it_names_and_nothing_else(opened: OpenDirectory) -> None:
    before = await opened.registry.create_tenant(ACME, name="Acme")
    other = await opened.registry.create_tenant(GLOBEX, name="Globex")
    masking = MaskingPolicy(keys=(KeyRule("badge number", "hash"),), rules=(RuleChoice("email", "redact"),))
    limits = TenantLimits(events_per_s=10, burst_events=20)
    expected = before
    for change in (
        TenantChange(name="Acme Inc."),
        TenantChange(status=TenantStatus.SUSPENDED),
        TenantChange(ingest=IngestMode.BLOCKED),
        TenantChange(masking=masking),
        TenantChange(limits=limits),
        TenantChange(retention_days=30),
        TenantChange(status=TenantStatus.ACTIVE, ingest=IngestMode.OPEN, masking=MaskingPolicy()),
    ):
        fields = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
        previous, expected = expected, msgspec.structs.replace(expected, **fields, version=expected.version + 1)
        assert await opened.registry.change_tenant(ACME, change) == TenantChanged(previous, expected)
        assert await opened.part["ingest"].tenant(ACME) == expected
    assert await opened.registry.tenant(GLOBEX) == other


async def test_a_change_of_a_version_that_is_past_is_refused(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    answers = await asyncio.gather(
        *(opened.registry.change_tenant(ACME, TenantChange(version=1, name=f"Acme {i}")) for i in range(4)),
        return_exceptions=True,
    )
    assert Counter(type(answer) for answer in answers) == Counter({Outdated: 3, TenantChanged: 1})
    with pytest.raises(Outdated):
        await opened.registry.delete_tenant(ACME, version=1)


async def test_only_a_suspended_tenant_is_deleted_and_stays_so(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    with pytest.raises(WrongState):
        await opened.registry.delete_tenant(ACME)
    await opened.registry.change_tenant(ACME, TenantChange(status=TenantStatus.SUSPENDED))
    deleted = (await opened.registry.delete_tenant(ACME)).after
    assert deleted.status is TenantStatus.DELETED
    assert await opened.part["ingest"].tenant(ACME) == deleted
    for call in (
        opened.registry.change_tenant(ACME, TenantChange(status=TenantStatus.ACTIVE)),
        opened.registry.delete_tenant(ACME),
        opened.registry.rotate_keys(ACME),
        opened.registry.create_api_key(an_api_key()),
    ):
        with pytest.raises(NotFound):
            await call


async def test_a_policy_that_cannot_be_read_is_never_taken_for_none(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    for broken in ("", "[]", '{"keys": 1}', '{"of_a_later_version": true}'):
        await opened.owner.execute("UPDATE auditlog.tenants SET masking = $1", broken)
        with pytest.raises(DirectoryUnavailable):
            await opened.part["ingest"].tenant(ACME)


async def test_an_api_key_is_read_back_as_it_was_kept_by_every_part(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    key = an_api_key(
        scope=frozenset({Permission.LOGS_WRITE}),
        data_scope=DataScope(resource_types=frozenset({"invoice", "order"}), severities=frozenset()),
        expires_at=datetime(2027, 1, 1, tzinfo=UTC),
    )
    await opened.registry.create_api_key(key)
    for part in PARTS:
        assert await opened.part[part].api_key(ACME, key.key_id) == key


async def test_a_key_of_one_tenant_is_no_key_of_another(opened: OpenDirectory) -> None:
    for tenant in (ACME, GLOBEX):
        await opened.registry.create_tenant(tenant, name=tenant)
    key = an_api_key()
    await opened.registry.create_api_key(key)
    for call in (
        opened.part["ingest"].api_key(GLOBEX, key.key_id),
        opened.registry.revoke_api_key(GLOBEX, key.key_id),
    ):
        with pytest.raises(NotFound):
            await call
    assert await opened.registry.api_keys(GLOBEX, before=None, limit=10) == []
    transport = await opened.part["ingest"].current(ACME, KeyPurpose.TRANSPORT)
    with pytest.raises(NotFound):
        await opened.part["ingest"].by_id(GLOBEX, transport.key_id)


async def test_a_revoked_key_says_since_when_for_good(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    key = an_api_key()
    await opened.registry.create_api_key(key)
    revoked = await opened.registry.revoke_api_key(ACME, key.key_id)
    assert revoked.revoked_at is not None
    assert abs(datetime.now(UTC) - revoked.revoked_at) < timedelta(minutes=1)
    assert await opened.registry.revoke_api_key(ACME, key.key_id) == revoked
    assert await opened.part["ingest"].api_key(ACME, key.key_id) == revoked


async def test_keys_are_listed_newest_first_page_by_page(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    keys = [an_api_key(at_us=NOW_US + i * 1_000) for i in range(5)]
    for key in keys:
        await opened.registry.create_api_key(key)
    await opened.registry.revoke_api_key(ACME, keys[2].key_id)
    listed: list[ApiKey] = []
    while page := await opened.registry.api_keys(ACME, before=listed[-1].key_id if listed else None, limit=2):
        listed += page
    assert [key.key_id for key in listed] == [key.key_id for key in reversed(keys)]
    assert [key.revoked_at is not None for key in listed] == [False, False, True, False, False]


async def test_a_new_tenant_has_a_first_key_of_every_purpose_wrapped_for_it_alone(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    rows = await opened.owner.fetch("SELECT purpose, generation, key_id, wrapped FROM auditlog.tenant_keys")
    assert {(row["purpose"], row["generation"]) for row in rows} == {(purpose.value, 1) for purpose in KeyPurpose}
    plain = {await opened.key_store.unwrap(ACME, row["purpose"], row["wrapped"]) for row in rows}
    assert len(plain) == len(KeyPurpose)


async def test_a_rotation_adds_a_generation_and_keeps_the_old(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    await opened.registry.create_tenant(GLOBEX, name="Globex")
    projector = opened.part["projector"]
    old = await projector.current(ACME, KeyPurpose.OWNER)
    lookup = await projector.current(ACME, KeyPurpose.LOOKUP)

    rotated = await opened.registry.rotate_keys(ACME)

    assert {(new.purpose, new.generation) for new in rotated} == {(purpose, 2) for purpose in ROTATING}
    new = await projector.current(ACME, KeyPurpose.OWNER)
    assert (new.generation, new.key_id) in {(made.generation, made.key_id) for made in rotated}
    assert await projector.by_id(ACME, old.key_id) == old
    assert await projector.current(ACME, KeyPurpose.LOOKUP) == lookup
    assert await opened.key_store.unwrap(ACME, "owner", new.wrapped) != await opened.key_store.unwrap(
        ACME, "owner", old.wrapped
    )
    assert (
        await opened.owner.fetchval("SELECT max(generation) FROM auditlog.tenant_keys WHERE tenant = $1", GLOBEX) == 1
    )


async def test_rotations_at_once_take_generations_in_turn(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    await asyncio.gather(*(opened.registry.rotate_keys(ACME) for _ in range(5)))
    rows = await opened.owner.fetch("SELECT purpose FROM auditlog.tenant_keys ORDER BY generation")
    generations = Counter(KeyPurpose(row["purpose"]) for row in rows)
    assert generations == Counter({purpose: 6 if purpose in ROTATING else 1 for purpose in KeyPurpose})


async def test_each_part_can_use_the_keys_that_it_needs(opened: OpenDirectory) -> None:
    await opened.registry.create_tenant(ACME, name="Acme")
    rings = {
        part: Keyring(tenant_keys=directory, key_store=opened.key_store, clock=SystemClock())
        for part, directory in opened.part.items()
    }
    transport = {(await ring.transport_key(ACME)).key_id for ring in rings.values()}
    tags = {(await ring.lookup_key(ACME)).owner_tag("ada") for ring in rings.values()}
    assert len(transport) == len(tags) == 1
    assert (await rings["projector"].owner_wrapping(ACME)).tenant_key_id == (
        await rings["query"].owner_wrapping(ACME)
    ).tenant_key_id
    for part, key in (
        ("admin", KeyPurpose.OWNER),
        ("ingest", KeyPurpose.OWNER),
        ("ingest", KeyPurpose.CURSOR),
        ("projector", KeyPurpose.CURSOR),
        ("query", KeyPurpose.DIGEST),
    ):
        with pytest.raises(NotFound, match="this login"):
            await opened.part[part].current(ACME, key)


async def test_only_a_marked_database_is_for_development(opened: OpenDirectory) -> None:
    assert not await opened.part["admin"].is_development()
    await opened.owner.execute("INSERT INTO auditlog.facts VALUES ('mode', 'development')")
    for part in PARTS:
        assert await opened.part[part].is_development()


async def test_no_secret_shows_in_a_repr(opened: OpenDirectory) -> None:
    key = an_api_key()
    await opened.registry.create_tenant(ACME, name="Acme", first_key=key)
    shown = repr(await opened.registry.api_key(ACME, key.key_id))
    shown += repr(await opened.part["ingest"].current(ACME, KeyPurpose.TRANSPORT))
    assert "secret_hash" not in shown
    assert "wrapped" not in shown


def a_message(tenant: TenantId = ACME, body: bytes = b"sealed") -> Message:
    return Message(tenant, uuid.uuid4(), body)


REVOKED = an_api_key(at_us=NOW_US + 1_000)
RecordingChange = Callable[[TenantRegistry, Callable[..., list[Message]]], Awaitable[object]]
CHANGES: Mapping[str, RecordingChange] = {
    "create_tenant": lambda registry, record: registry.create_tenant(GLOBEX, name="Globex", record=record),
    "change_tenant": lambda registry, record: registry.change_tenant(ACME, TenantChange(name="x"), record=record),
    "delete_tenant": lambda registry, record: registry.delete_tenant(ACME, record=record),
    "rotate_keys": lambda registry, record: registry.rotate_keys(ACME, record=record),
    "create_api_key": lambda registry, record: registry.create_api_key(an_api_key(), record=record),
    "revoke_api_key": lambda registry, record: registry.revoke_api_key(ACME, REVOKED.key_id, record=record),
}


async def everything(opened: OpenDirectory) -> str:
    """All rows of what the registry writes, outbox included."""
    tables = ("tenants", "api_keys", "tenant_keys", "heads", "outbox")
    return str([await opened.owner.fetch(f"SELECT t::text FROM auditlog.{table} t ORDER BY 1") for table in tables])


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_and_its_record_are_kept_together_or_not_at_all(opened: OpenDirectory, name: str) -> None:
    await opened.registry.create_tenant(ACME, name="Acme", first_key=REVOKED)
    await opened.registry.change_tenant(ACME, TenantChange(status=TenantStatus.SUSPENDED))
    before, told, change = await everything(opened), list[object](), CHANGES[name]

    def no_record(*_: object) -> list[Message]:
        raise KeyUnavailable("there can be no record")

    def unwritable(*_: object) -> list[Message]:
        return [a_message(), a_message(TenantId("no\0tenant"))]

    def record(*changed: object) -> list[Message]:
        told.append(changed[0])
        return [a_message(body=b"1"), a_message(GLOBEX, body=b"2")]

    with pytest.raises(KeyUnavailable):
        await change(opened.registry, no_record)
    with pytest.raises(DirectoryUnavailable):
        await change(opened.registry, unwritable)
    assert await everything(opened) == before
    changed = await change(opened.registry, record)
    assert len(told) == 1
    assert changed is None or told == [changed]
    async with opened.registry.taken_from_outbox(messages_max=10) as messages:
        assert [(message.tenant, message.body) for message in messages] == [(ACME, b"1"), (GLOBEX, b"2")]
    assert (await opened.registry.outbox_depth()).messages == 0


async def test_a_new_tenants_record_is_made_with_the_keys_that_it_gets(opened: OpenDirectory) -> None:
    made: dict[KeyPurpose, NewTenantKey] = {}

    def record(_: Tenant, keys: Mapping[KeyPurpose, NewTenantKey]) -> list[Message]:
        made.update(keys)
        return []

    await opened.registry.create_tenant(ACME, name="Acme", record=record)
    rows = await opened.owner.fetch("SELECT purpose, key_id, wrapped FROM auditlog.tenant_keys")
    assert {(row["purpose"], row["key_id"]) for row in rows} == {(of.value, key.key_id) for of, key in made.items()}
    for row in rows:
        plain = await opened.key_store.unwrap(ACME, row["purpose"], row["wrapped"])
        assert plain == made[KeyPurpose(row["purpose"])].plain
        assert str(plain) not in repr(made)


async def test_a_key_in_place_of_another_ends_that_one(opened: OpenDirectory) -> None:
    old, new = an_api_key(), an_api_key(at_us=NOW_US + 1_000)
    await opened.registry.create_tenant(ACME, name="Acme", first_key=old)
    await opened.registry.create_api_key(new, in_place_of=old.key_id)
    kept = await opened.registry.api_keys(ACME, before=None, limit=10)
    assert [(key.key_id, key.revoked_at is None) for key in kept] == [(new.key_id, True), (old.key_id, False)]


async def _fill_outbox(opened: OpenDirectory, count: int) -> list[Message]:
    messages = [a_message() for _ in range(count)]
    await opened.registry.create_tenant(ACME, name="Acme", record=lambda *_: messages)
    return messages


async def test_the_outbox_gives_its_messages_in_order_and_each_to_one_alone(opened: OpenDirectory) -> None:
    messages = await _fill_outbox(opened, 5)
    take = opened.registry.taken_from_outbox
    async with take(messages_max=2) as first, take(messages_max=2) as second:
        assert (first, second) == (messages[:2], messages[2:4])
        assert await opened.owner.fetchval("SELECT count(*) FROM auditlog.outbox") == 5
    async with take(messages_max=2) as rest:
        assert rest == messages[4:]
    depth = await opened.registry.outbox_depth()
    assert (depth.messages, depth.oldest_age_s) == (0, 0)


async def test_what_was_taken_from_the_outbox_is_back_where_its_taker_failed(opened: OpenDirectory) -> None:
    messages = await _fill_outbox(opened, 2)
    take = opened.registry.taken_from_outbox
    for failure in (QueueUnavailable("down"), asyncio.CancelledError()):
        with suppress(type(failure)):
            async with take(messages_max=10) as taken:
                assert taken == messages
                raise failure
    with pytest.raises(OutcomeUnknown):
        async with take(messages_max=10):
            await opened.owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND state = 'idle in transaction'"
            )
    async with take(messages_max=10) as taken:
        assert taken == messages


class _LockedKeyStore(FileKeyStore):
    async def new_data_key(self, tenant: TenantId, purpose: str) -> DataKey:
        raise KeyUnavailable("the key store can't be reached")


async def test_without_the_key_store_no_tenant_is_made(opened: OpenDirectory, database: Database) -> None:
    async with postgres_pool(database.url_for("admin"), part="admin") as pool:
        registry = PostgresTenantRegistry(pool, key_store=_LockedKeyStore(bytes(32)))
        with pytest.raises(KeyUnavailable):
            await registry.create_tenant(ACME, name="Acme")
    assert await opened.registry.tenants(after=None, limit=10) == []


async def test_without_the_database_everything_is_unavailable_and_comes_back(
    throwaway_postgres: ThrowawayPostgres,
) -> None:
    async with postgres_pool(throwaway_postgres.database.url_for("admin"), part="admin") as pool:
        registry = PostgresTenantRegistry(pool, key_store=FileKeyStore(bytes(32)))
        made = await registry.create_tenant(ACME, name="Acme")
        await throwaway_postgres.kill()
        for call in (
            registry.tenant(ACME),
            registry.current(ACME, KeyPurpose.TRANSPORT),
            registry.is_development(),
            registry.create_tenant(GLOBEX, name="Globex"),
            registry.change_tenant(ACME, TenantChange(name="x")),
            registry.tenants(after=None, limit=1),
        ):
            with pytest.raises(DirectoryUnavailable):
                await call
        await throwaway_postgres.start()
        assert await registry.tenant(ACME) == made
        with pytest.raises(NotFound):
            await registry.tenant(GLOBEX)


async def test_a_connection_cut_in_the_commit_leaves_the_outcome_unknown(opened: OpenDirectory) -> None:
    # A deferred trigger ends the session while it commits, where the client can't know any more.
    await opened.owner.execute(
        """
        CREATE FUNCTION auditlog.cut() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
            'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER cut AFTER UPDATE ON auditlog.tenants DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION auditlog.cut();
        """
    )
    await opened.registry.create_tenant(ACME, name="Acme")
    with pytest.raises(OutcomeUnknown):
        await opened.registry.change_tenant(ACME, TenantChange(name="Acme Inc."))
    await opened.owner.execute("DROP TRIGGER cut ON auditlog.tenants")
    changed = await opened.registry.change_tenant(ACME, TenantChange(name="Acme Inc."))
    assert changed.after.name == "Acme Inc."


async def test_a_pool_that_is_used_up_is_unavailable_not_a_hang(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_backends.tenant_directory.postgres.ACQUIRE_TIMEOUT_S", 0.05)
    async with postgres_pool(database.url_for("admin"), part="admin", connections_max=1) as pool:
        registry = PostgresTenantRegistry(pool, key_store=FileKeyStore(bytes(32)))
        async with pool.acquire() as held:
            assert isinstance(await held.fetchval("SELECT 1"), int)
            with pytest.raises(DirectoryUnavailable) as unavailable:
                await registry.tenant(ACME)
        assert isinstance(unavailable.value.__cause__, TimeoutError)
        assert not isinstance(unavailable.value.__cause__, asyncpg.PostgresError)
