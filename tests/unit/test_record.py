"""The record, version 1: what is committed to opens, nothing else does, and every commitment can be recomputed."""

from __future__ import annotations

import json
import uuid
from hashlib import sha256, shake_256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_contracts import record
from audit_contracts.errors import SealBroken
from audit_contracts.event import Event
from audit_contracts.record import OwnerKey, Sealer
from tests.events import OWNER_KEY, an_event

LOG_ID = bytes(range(16))
SEALER = Sealer()

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
optional = st.none() | texts
slot_bytes = st.none() | st.binary(max_size=300)
events = st.builds(
    an_event,
    resource_id=texts,
    user_id=texts,
    subject_id=optional,
    session_id=optional,
    user_agent=optional,
    flags=st.lists(st.sampled_from(["late", "clock_skew"]), unique=True),
    producer_seq=st.none() | st.integers(0, 2**63 - 1),
    changes=slot_bytes,
    content=slot_bytes,
)


@given(events)
def test_what_is_sealed_opens_as_it_was(event: Event) -> None:
    sealed = SEALER.seal(LOG_ID, event, OWNER_KEY)
    opened = SEALER.open(LOG_ID, event.id, sealed.sealed, OWNER_KEY)
    assert tuple(opened.data(i) for i in range(1, 5)) == record.slots_of(event)
    assert opened.root() == sealed.root
    assert record.key_id_of(sealed.sealed) == OWNER_KEY.key_id


@given(events)
def test_commitments_follow_from_the_published_formula(event: Event) -> None:
    """Written anew from the format's definition, as a verifier would."""
    sealed = SEALER.seal(LOG_ID, event, OWNER_KEY)
    opened = SEALER.open(LOG_ID, event.id, sealed.sealed, OWNER_KEY)

    def slot(i: int, salt: bytes, data: bytes | None) -> bytes:
        return bytes(32) if data is None else sha256(b"auditlog/slot/1\n" + bytes([i]) + salt + data).digest()

    stream = shake_256(opened.seed).digest(64)
    c1_to_c4 = [slot(i, stream[16 * i - 16 : 16 * i], opened.data(i)) for i in range(1, 5)]
    root = sha256(b"auditlog/slots/1\n\x04" + b"".join(c1_to_c4)).digest()
    c0 = slot(0, sealed.core_salt, record.core_of(event))
    leaf = b"auditlog/leaf/1\n" + LOG_ID + (5).to_bytes(8) + (6).to_bytes(8) + c0 + root

    assert (sealed.root, sealed.core_commitment) == (root, c0)
    assert record.leaf(LOG_ID, 5, 6, c0, root) == leaf
    assert len(leaf) == record.LEAF_BYTES
    assert record.leaf_hash(leaf) == sha256(b"\0" + leaf).digest()


def test_the_core_is_a_compact_array_in_the_published_order() -> None:
    event = an_event(id=uuid.UUID(int=10), flags=["late"], producer_seq=3, source="billing")
    assert json.loads(record.core_of(event)) == [
        "00000000-0000-0000-0000-00000000000a",
        "user.login",
        "INFO",
        "success",
        "session",
        "billing",
        event.timestamp_us,
        event.received_at_us,
        None,
        None,
        None,
        None,
        3,
        1,
        ["late"],
    ]
    assert b", " not in record.core_of(event)


def test_equal_events_are_sealed_to_unequal_bytes() -> None:
    event = an_event()
    first, second = (SEALER.seal(LOG_ID, event, OWNER_KEY) for _ in range(2))
    assert first.root != second.root
    assert first.core_commitment != second.core_commitment


@pytest.mark.parametrize("mask", [1, 0x80, 0xFF])
def test_no_altered_byte_goes_unseen(mask: int) -> None:
    event = an_event()
    sealed = SEALER.seal(LOG_ID, event, OWNER_KEY).sealed
    for at in range(len(sealed)):
        for damaged in (sealed[:at] + bytes([sealed[at] ^ mask]) + sealed[at + 1 :], sealed[:at]):
            with pytest.raises(SealBroken):
                SEALER.open(LOG_ID, event.id, damaged, OWNER_KEY)


def test_a_seal_holds_for_its_log_its_event_and_its_key_alone() -> None:
    event = an_event()
    sealed = SEALER.seal(LOG_ID, event, OWNER_KEY).sealed
    for log_id, event_id, key in (
        (bytes(16), event.id, OWNER_KEY),
        (LOG_ID, uuid.uuid4(), OWNER_KEY),
        (LOG_ID, event.id, OwnerKey(OWNER_KEY.key_id, bytes(32))),
        (LOG_ID, event.id, OwnerKey(uuid.uuid4(), bytes(range(32)))),
    ):
        with pytest.raises(SealBroken):
            SEALER.open(log_id, event_id, sealed, key)


def test_a_dropped_slot_keeps_the_root() -> None:
    event = an_event(changes=b'{"before":1}')
    sealed = SEALER.seal(LOG_ID, event, OWNER_KEY)
    opened = SEALER.open(LOG_ID, event.id, sealed.sealed, OWNER_KEY)
    commitment = record.commitment(3, record.salts(opened.seed)[2], b'{"before":1}')
    dropped = msgspec.structs.replace(
        opened, slots=(*opened.slots[:2], record.SlotRow(record.DROPPED, commitment), opened.slots[3])
    )
    assert dropped.data(3) is None
    assert dropped.root() == sealed.root


def test_no_key_is_shown() -> None:
    assert repr(OWNER_KEY) == f"OwnerKey({OWNER_KEY.key_id})"
