"""Sealing events into messages that fit the queue: several posts into one, or one post into several."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

import msgspec

from audit_contracts.codec import BATCH_EVENTS_MAX, BatchCodec, TransportKey
from audit_contracts.errors import OutcomeUnknown, SendUnknown
from audit_contracts.event import Event
from audit_contracts.ids import uuid7
from audit_contracts.ports.event_queue import Message
from audit_contracts.principal import TenantId

_EVENT_BYTES: Final = 512
"""What an event takes beside its two slots, about."""
_PLAIN_PER_MESSAGE: Final = 2
"""Events compress to less than half, so a batch of twice a message's bytes usually fits at the first try."""


class Placement(msgspec.Struct, frozen=True):
    """Where events stand: `count` of them in a batch, from ordinal `first` on."""

    batch_id: UUID
    first: int
    count: int


class Post:
    """
    Events that one caller waits for, and what is known of them so far.

    `bytes` is about what they take in memory, and in a batch before it is compressed. `landed` is answered once.
    """

    __slots__ = ("_error", "_placements", "bytes", "events", "key", "landed", "tenant")

    def __init__(self, tenant: TenantId, events: Sequence[Event], key: TransportKey) -> None:
        self.tenant = tenant
        self.events = events
        self.key = key
        self.bytes = sum(map(_bytes_of, events))
        self.landed: asyncio.Future[Sequence[Placement]] = asyncio.get_running_loop().create_future()
        self._placements: list[Placement] = []
        self._error: Exception | None = None

    def note(self, placement: Placement, error: Exception | None) -> None:
        """A stretch of it is durable, or not. What is unknown outweighs what is known not to be."""
        self._placements.append(placement)
        if error is not None and (self._error is None or isinstance(error, OutcomeUnknown)):
            self._error = error

    def land(self) -> None:
        """All stretches were noted: tell who waits, unless they have gone or were told before."""
        if self._error is not None:
            self.fail(self._error)
        elif not self.landed.done():
            self.landed.set_result(self._placements)

    def fail(self, error: BaseException) -> None:
        """Tell who waits, unless they have gone or were told before."""
        if not self.landed.done():
            self.landed.set_exception(error if isinstance(error, Exception) else SendUnknown("sending was cut off"))


class Stretch(msgspec.Struct, frozen=True):
    """Events of a post that stand side by side: `start` (inclusive) to `stop` (exclusive)."""

    post: Post
    start: int
    stop: int


class Pack(msgspec.Struct, frozen=True):
    """`count` events sealed into one message; it is None where they are one event that no message can carry."""

    message: Message | None
    stretches: Sequence[Stretch]
    count: int

    def tell(self, error: Exception | None) -> None:
        """Note in each post what became of its events."""
        first = 0
        for stretch in self.stretches:
            count = stretch.stop - stretch.start
            if self.message is not None:
                stretch.post.note(Placement(self.message.batch_id, first, count), error)
            first += count


def pack(posts: Sequence[Post], *, codec: BatchCodec, message_bytes_max: int, now_us: int) -> list[Pack]:
    """Seal posts of one tenant and key into messages, in the order of their events."""
    packs: list[Pack] = []
    for stretches in _groups(posts, _PLAIN_PER_MESSAGE * message_bytes_max):
        _seal(stretches, codec, message_bytes_max, now_us, packs)
    return packs


def _groups(posts: Sequence[Post], plain_max: int) -> Iterator[list[Stretch]]:
    """Stretches that probably fit a message together."""
    group: list[Stretch] = []
    count = plain = 0
    for post in posts:
        if count + len(post.events) <= BATCH_EVENTS_MAX and plain + post.bytes <= plain_max:
            group.append(Stretch(post, 0, len(post.events)))
            count += len(post.events)
            plain += post.bytes
            continue
        start = 0
        for at, event in enumerate(post.events):
            size = _bytes_of(event)
            if count and (count == BATCH_EVENTS_MAX or plain + size > plain_max):
                if at > start:
                    group.append(Stretch(post, start, at))
                yield group
                group, count, plain, start = [], 0, 0, at
            count += 1
            plain += size
        group.append(Stretch(post, start, len(post.events)))
    yield group


def _seal(
    stretches: Sequence[Stretch], codec: BatchCodec, message_bytes_max: int, now_us: int, packs: list[Pack]
) -> None:
    events = [event for stretch in stretches for event in stretch.post.events[stretch.start : stretch.stop]]
    tenant, key = stretches[0].post.tenant, stretches[0].post.key
    batch_id = uuid7(now_us)
    body = codec.seal(tenant, batch_id, now_us, events, key)
    if len(body) <= message_bytes_max:
        packs.append(Pack(Message(tenant, batch_id, body), stretches, len(events)))
    elif len(events) == 1:
        packs.append(Pack(None, stretches, 1))
    else:
        for half in _halves(stretches, len(events) // 2):
            _seal(half, codec, message_bytes_max, now_us, packs)


def _halves(stretches: Sequence[Stretch], count: int) -> tuple[list[Stretch], list[Stretch]]:
    """The stretches of the first `count` events, and those of the others."""
    first: list[Stretch] = []
    second: list[Stretch] = []
    for stretch in stretches:
        middle = min(stretch.start + count, stretch.stop)
        if middle > stretch.start:
            first.append(Stretch(stretch.post, stretch.start, middle))
        if middle < stretch.stop:
            second.append(Stretch(stretch.post, middle, stretch.stop))
        count -= middle - stretch.start
    return first, second


def _bytes_of(event: Event) -> int:
    return _EVENT_BYTES + len(event.changes or b"") + len(event.content or b"")
