"""The event batch: what is sealed comes out as it was, and nothing else comes out."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_contracts.codec import BatchCodec, TransportKey, read_head
from audit_contracts.errors import SealBroken
from audit_contracts.event import Event
from audit_contracts.ids import conflict_id, named, replay_id, uuid7, uuid7_us
from audit_contracts.principal import TenantId, tenant_id
from tests.events import NOW_US, an_event

ACME = TenantId("acme")
KEY = TransportKey(uuid.UUID(int=3), bytes(32))
BATCH_ID = uuid.UUID(int=9)
CODEC = BatchCodec()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
events = st.builds(
    an_event,
    resource_id=texts,
    user_id=texts,
    fingerprint=st.none() | st.binary(min_size=16, max_size=16),
    content=st.none() | st.binary(max_size=100),
    timestamp_us=st.integers(-(2**63), 2**63 - 1),
)


def sealed(*batch: Event) -> bytes:
    return CODEC.seal(ACME, BATCH_ID, NOW_US, batch, KEY)


@given(st.lists(events, min_size=1, max_size=20))
def test_a_batch_opens_as_it_was(batch: list[Event]) -> None:
    message = sealed(*batch)
    assert CODEC.open(ACME, message, KEY) == batch
    head = read_head(message)
    assert (head.key_id, head.batch_id, head.made_at_us, head.count) == (KEY.key_id, BATCH_ID, NOW_US, len(batch))


@pytest.mark.parametrize("mask", [1, 0x80, 0xFF])
def test_no_altered_byte_goes_unseen(mask: int) -> None:
    message = sealed(an_event())
    for at in range(len(message)):
        for damaged in (message[:at] + bytes([message[at] ^ mask]) + message[at + 1 :], message[:at]):
            with pytest.raises(SealBroken):
                CODEC.open(ACME, damaged, KEY)


def test_a_batch_opens_for_its_tenant_and_under_its_key_alone() -> None:
    message = sealed(an_event())
    with pytest.raises(SealBroken):
        CODEC.open(TenantId("globex"), message, KEY)
    with pytest.raises(SealBroken):
        CODEC.open(ACME, message, TransportKey(KEY.key_id, bytes([1]) * 32))


def test_a_batch_of_nothing_does_not_open() -> None:
    with pytest.raises(SealBroken):
        CODEC.open(ACME, sealed(), KEY)


def test_a_message_shows_no_plaintext() -> None:
    assert b"very-visible" not in sealed(*[an_event(user_id="very-visible") for _ in range(3)])


def test_no_key_is_shown() -> None:
    assert repr(KEY) == f"TransportKey({KEY.key_id})"


@given(st.integers(0, 2**47 * 1000))
def test_a_version_7_id_tells_its_millisecond_and_sorts_by_time(us: int) -> None:
    made = uuid7(us)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert uuid7_us(made) == us // 1000 * 1000
    assert made < uuid7(us + 1_000)
    assert uuid7_us(uuid.uuid4()) is None


def test_names_of_parts_never_run_together() -> None:
    space = uuid.UUID(int=1)
    assert named(space, "ab", "c") != named(space, "a", "bc") != named(space, "abc")
    assert named(space, "a") == named(space, b"a")
    assert conflict_id(bytes(16), space, b"f") != conflict_id(bytes(15) + b"1", space, b"f")
    assert replay_id(space, 0) == replay_id(space, 0) != replay_id(space, 1)


@pytest.mark.parametrize("text", ["", "-a", "A", "a" * 64, "a b", "a\n", "ä", "a.b"])
def test_a_bad_tenant_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="tenant id"):
        tenant_id(text)


@pytest.mark.parametrize("text", ["a", "0", "acme-1_x", "a" * 63])
def test_a_good_tenant_id_is_kept(text: str) -> None:
    assert tenant_id(text) == text
