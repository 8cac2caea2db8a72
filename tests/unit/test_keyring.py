"""The keyring: what it caches, for how long, and that no key serves two uses."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest
from cryptography.exceptions import InvalidTag

from audit_backends.key_store.file import FileKeyStore
from audit_contracts.codec import BatchCodec
from audit_contracts.errors import DirectoryUnavailable, NotFound, SealBroken
from audit_contracts.ports.tenant_keys import KeyPurpose, TenantKey
from audit_contracts.principal import TenantId
from audit_contracts.record import Sealer
from audit_kit.keyring import NEWEST_FOR_S, Keyring
from audit_kit.secret_keys import OwnerWrapping
from tests.events import NOW_US, an_event
from tests.kit_world import ManualClock

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
LOG_ID = b"l" * 16


class KeysInMemory:
    """The port `TenantKeys` over a list, counting what it is asked, and failing when told to."""

    def __init__(self, key_store: FileKeyStore) -> None:
        self.key_store = key_store
        self.keys: list[TenantKey] = []
        self.asked: Counter[object] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_down = False

    async def add(self, tenant: TenantId, purpose: KeyPurpose, generation: int = 1) -> TenantKey:
        data_key = await self.key_store.new_data_key(tenant, purpose.value)
        key = TenantKey(
            tenant=tenant,
            purpose=purpose,
            key_id=uuid.uuid4(),
            generation=generation,
            wrapped=data_key.wrapped,
            created_at=datetime.now(UTC),
        )
        self.keys.append(key)
        return key

    async def current(self, tenant: TenantId, purpose: KeyPurpose) -> TenantKey:
        await self._answering((tenant, purpose))
        found = [key for key in self.keys if (key.tenant, key.purpose) == (tenant, purpose)]
        if not found:
            raise NotFound("no such key")
        return max(found, key=lambda key: key.generation)

    async def by_id(self, tenant: TenantId, key_id: uuid.UUID) -> TenantKey:
        await self._answering((tenant, key_id))
        for key in self.keys:
            if (key.tenant, key.key_id) == (tenant, key_id):
                return key
        raise NotFound("no such key")

    async def _answering(self, question: object) -> None:
        self.asked[question] += 1
        await self.gate.wait()
        if self.is_down:
            raise DirectoryUnavailable("down")


class World(msgspec.Struct):
    keys: KeysInMemory
    clock: ManualClock
    new_keyring: Callable[..., Keyring]


@pytest.fixture
async def world() -> World:
    keys = KeysInMemory(FileKeyStore(secrets.token_bytes(32)))
    for tenant in (ACME, GLOBEX):
        for purpose in KeyPurpose:
            await keys.add(tenant, purpose)
    clock = ManualClock()

    def new_keyring(keys_max: int = 100) -> Keyring:
        return Keyring(tenant_keys=keys, key_store=keys.key_store, clock=clock, keys_max=keys_max)

    return World(keys, clock, new_keyring)


async def test_a_batch_sealed_under_one_keyring_opens_under_another(world: World) -> None:
    codec, batch_id, event = BatchCodec(), uuid.uuid4(), an_event()
    key = await world.new_keyring().transport_key(ACME)
    message = codec.seal(ACME, batch_id, NOW_US, [event], key)
    opened = codec.open(ACME, message, await world.new_keyring().transport_key_by_id(ACME, key.key_id))
    assert opened == [event]


async def test_a_cached_key_is_answered_without_suspending_and_without_a_read(world: World) -> None:
    keyring = world.new_keyring()
    first = await keyring.transport_key(ACME)
    coroutine = keyring.transport_key(ACME)
    with pytest.raises(StopIteration) as answered:
        coroutine.send(None)
    assert answered.value.value is first
    assert await keyring.transport_key_by_id(ACME, first.key_id) is first
    assert sum(world.keys.asked.values()) == 1


async def test_tasks_that_miss_together_share_one_read_even_if_the_first_is_cancelled(world: World) -> None:
    keyring = world.new_keyring()
    world.keys.gate.clear()
    tasks = [asyncio.create_task(keyring.transport_key(ACME)) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    world.keys.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert len(set(map(id, answers[1:]))) == 1
    assert world.keys.asked == Counter({(ACME, KeyPurpose.TRANSPORT): 1})


async def test_a_failure_is_not_remembered_and_a_cached_key_outlives_it(world: World) -> None:
    keyring = world.new_keyring()
    world.keys.is_down = True
    with pytest.raises(DirectoryUnavailable):
        await keyring.transport_key(ACME)
    world.keys.is_down = False
    key = await keyring.transport_key(ACME)
    world.keys.is_down = True
    assert await keyring.transport_key(ACME) is key


async def test_a_rotation_is_taken_up_within_five_minutes_and_old_generations_still_open(world: World) -> None:
    assert NEWEST_FOR_S <= 300
    keyring = world.new_keyring()
    old = await keyring.transport_key(ACME)
    new = await world.keys.add(ACME, KeyPurpose.TRANSPORT, generation=2)
    world.clock.advance(NEWEST_FOR_S - 1)
    assert (await keyring.transport_key(ACME)).key_id == old.key_id
    world.clock.advance(1)
    assert (await keyring.transport_key(ACME)).key_id == new.key_id
    assert await keyring.transport_key_by_id(ACME, old.key_id) is old


async def test_a_generation_that_is_still_the_newest_is_not_unwrapped_again(world: World) -> None:
    keyring = world.new_keyring()
    first = await keyring.owner_wrapping(ACME)
    world.clock.advance(NEWEST_FOR_S)
    assert await keyring.owner_wrapping(ACME) is first
    assert world.keys.asked[ACME, KeyPurpose.OWNER] == 2


async def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest(world: World) -> None:
    keyring = world.new_keyring(keys_max=2)
    tenants = [TenantId(f"t{i}") for i in range(3)]
    for tenant in tenants:
        await world.keys.add(tenant, KeyPurpose.TRANSPORT)
    for tenant in (tenants[0], tenants[1], tenants[0], tenants[2], tenants[0], tenants[1]):
        await keyring.transport_key(tenant)
    assert [world.keys.asked[tenant, KeyPurpose.TRANSPORT] for tenant in tenants] == [1, 2, 1]


async def test_the_id_of_a_key_of_another_purpose_or_tenant_is_no_key(world: World) -> None:
    keyring = world.new_keyring()
    receipt = await keyring.receipt_key(ACME)
    assert (await keyring.receipt_key_by_id(ACME, receipt.key_id)) is receipt
    with pytest.raises(NotFound):
        await keyring.cursor_key_by_id(ACME, receipt.key_id)
    with pytest.raises(NotFound):
        await keyring.receipt_key_by_id(GLOBEX, receipt.key_id)
    with pytest.raises(NotFound):
        await keyring.transport_key(TenantId("nobody"))


async def test_a_key_that_was_altered_in_the_directory_is_refused(world: World) -> None:
    key = world.keys.keys[0]
    world.keys.keys[0] = msgspec.structs.replace(key, wrapped=key.wrapped[:-1] + b"?")
    with pytest.raises(SealBroken):
        await world.new_keyring().transport_key(key.tenant)


async def test_an_owner_key_opens_what_it_sealed_after_it_was_kept_wrapped(world: World) -> None:
    event, sealer = an_event(), Sealer()
    wrapping = await world.new_keyring().owner_wrapping(ACME)
    wrapped, key = wrapping.new(b"t" * 16)
    record = sealer.seal(LOG_ID, event, key)
    later = await world.new_keyring().owner_wrapping_by_id(ACME, wrapped.tenant_key_id)
    opened = sealer.open(LOG_ID, event.id, record.sealed, later.open(wrapped))
    assert opened.root() == record.root


async def test_a_wrapped_owner_key_opens_only_as_what_it_was_wrapped_for(world: World) -> None:
    keyring = world.new_keyring()
    wrapping = await keyring.owner_wrapping(ACME)
    wrapped, _ = wrapping.new(b"t" * 16)
    replace = msgspec.structs.replace
    altered = [
        replace(wrapped, tag=b"u" * 16),
        replace(wrapped, key_id=uuid.uuid4()),
        *(replace(wrapped, wrapped=wrapped.wrapped[:length]) for length in (0, 1, 12, 13, 60)),
        *(
            replace(
                wrapped, wrapped=wrapped.wrapped[:at] + bytes([wrapped.wrapped[at] ^ 1]) + wrapped.wrapped[at + 1 :]
            )
            for at in range(len(wrapped.wrapped))
        ),
    ]
    for broken in altered:
        with pytest.raises(SealBroken):
            wrapping.open(broken)
    with pytest.raises(SealBroken):
        (await keyring.owner_wrapping(GLOBEX)).open(wrapped)


async def test_a_generation_of_another_tenant_with_the_same_bytes_opens_no_owner_key(world: World) -> None:
    key, key_id = secrets.token_bytes(32), uuid.uuid4()
    wrapped, _ = OwnerWrapping(ACME, key_id, key).new(b"t" * 16)
    with pytest.raises(SealBroken):
        OwnerWrapping(GLOBEX, key_id, key).open(wrapped)


async def test_an_owner_has_one_tag_in_a_tenant_and_another_in_the_next(world: World) -> None:
    acme, again = await world.new_keyring().lookup_key(ACME), await world.new_keyring().lookup_key(ACME)
    globex = await world.new_keyring().lookup_key(GLOBEX)
    assert acme.owner_tag("ada") == again.owner_tag("ada")
    assert len({acme.owner_tag("ada"), acme.owner_tag("bob"), globex.owner_tag("ada")}) == 3
    assert len(acme.owner_tag("Ångström")) == 16


async def test_no_two_uses_share_a_key(world: World) -> None:
    keyring = world.new_keyring()
    lookup = await keyring.lookup_key(ACME)
    macs = [
        lookup.owner_tag("ada"),
        lookup.masking.mac(b"ada")[:16],
        (await keyring.digest_key(ACME)).mac(b"ada")[:16],
        (await keyring.cursor_key(ACME)).mac(b"ada")[:16],
        (await keyring.receipt_key(ACME)).mac(b"ada")[:16],
    ]
    assert len(set(macs)) == len(macs)


async def test_a_secret_key_encrypts_for_itself_alone(world: World) -> None:
    keyring = world.new_keyring()
    cursor, receipt = await keyring.cursor_key(ACME), await keyring.receipt_key(ACME)
    box = cursor.cipher.encrypt(b"n" * 12, b"plain", b"aad")
    again = await world.new_keyring().cursor_key_by_id(ACME, cursor.key_id)
    assert again.cipher.decrypt(b"n" * 12, box, b"aad") == b"plain"
    with pytest.raises(InvalidTag):
        receipt.cipher.decrypt(b"n" * 12, box, b"aad")


async def test_no_secret_shows_in_a_repr(world: World) -> None:
    keyring = world.new_keyring()
    lookup = await keyring.lookup_key(ACME)
    wrapping = await keyring.owner_wrapping(ACME)
    cursor = await keyring.cursor_key(ACME)
    assert repr(lookup) == f"LookupKey({lookup.masking.key_id})"
    assert repr(lookup.masking) == f"SecretKey({lookup.masking.key_id})"
    assert repr(wrapping) == f"OwnerWrapping({wrapping.tenant_key_id})"
    assert repr(cursor) == f"SecretKey({cursor.key_id})"
    assert repr(wrapping.new(b"t" * 16)[1]).startswith("OwnerKey(")
