"""What is sent: entries of 600 bytes from 200 users, as an application's audit log has them. Always the same ones."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from audit_contracts.event import Changes, Content, Event
from audit_contracts.ids import uuid7
from audit_contracts.times import to_us

USERS = 200

_ACTIONS = ("user.login", "user.logout", "document.view", "document.update", "invoice.approve", "export.create")
_TYPES = ("session", "document", "invoice", "report")
_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
_CLEAR_FIELDS = (
    "user_id",
    "action",
    "severity",
    "outcome",
    "resource_type",
    "resource_id",
    "session_id",
    "ip_address",
)

_encode = msgspec.json.encode


def user(number: int) -> str:
    """One of the users."""
    return f"user-{number:03d}@example.com"


def entries(count: int, *, seed: int = 1, now: datetime | None = None) -> Iterator[dict[str, Any]]:
    """`count` entries ready for POST /logs, of the ten minutes before `now`. One in fifty holds a secret."""
    chance = random.Random(seed)
    start = (now or datetime.now(UTC)) - timedelta(minutes=10)
    for i in range(count):
        resource = chance.randrange(50_000)
        metadata: dict[str, Any] = {
            "tenant_plan": "enterprise",
            "region": "eu-west-1",
            "attempt": i % 3,
            "latency_ms": i % 997,
        }
        if i % 50 == 0:
            metadata["client_secret"] = f"s3cr3t-{resource:05d}"
        yield {
            "user_id": user(chance.randrange(USERS)),
            "action": chance.choice(_ACTIONS),
            "resource_type": chance.choice(_TYPES),
            "resource_id": f"res-{resource:05d}",
            "timestamp": (start + timedelta(milliseconds=i % 60_000)).isoformat(),
            "severity": "WARNING" if chance.random() < 0.05 else "INFO",
            "outcome": "failure" if chance.random() < 0.03 else "success",
            "ip_address": f"10.{chance.randrange(4)}.{chance.randrange(256)}.{chance.randrange(1, 255)}",
            "user_agent": _AGENT,
            "session_id": f"sess-{chance.randrange(2_000):08x}",
            "metadata": metadata,
            "before": {"status": "draft", "amount": resource * 7, "tags": ["a", "b"]},
            "after": {"status": "approved", "amount": resource * 7 + 1, "tags": ["a", "b", "c"]},
        }


@lru_cache(maxsize=4)
def bodies(count: int, entries_each: int | None) -> tuple[bytes, ...]:
    """The workload as bodies: JSON, one entry each, or NDJSON of `entries_each`."""
    encoded = [_encode(entry) for entry in entries(count)]
    if entries_each is None:
        return tuple(encoded)
    return tuple(b"\n".join(encoded[at : at + entries_each]) + b"\n" for at in range(0, count, entries_each))


def events(count: int, *, seed: int = 1, at: datetime | None = None) -> list[Event]:
    """The workload as events, as ingest makes them at that time of it."""
    now_us = time.time_ns() // 1_000 if at is None else to_us(at)
    return [
        Event(
            id=uuid7(now_us),
            action=entry["action"],
            severity=entry["severity"],
            outcome=entry["outcome"],
            resource_type=entry["resource_type"],
            resource_id=entry["resource_id"],
            timestamp_us=to_us(msgspec.convert(entry["timestamp"], type=datetime)),
            received_at_us=now_us,
            user_id=entry["user_id"],
            submitted_by="key|bench",
            session_id=entry["session_id"],
            ip_address=entry["ip_address"],
            user_agent=entry["user_agent"],
            changes=_encode(Changes(before=entry["before"], after=entry["after"])),
            content=_encode(Content(metadata=entry["metadata"])),
        )
        for entry in entries(count, seed=seed, now=at)
    ]


@lru_cache(maxsize=8)
def checksum(count: int) -> int:
    """The checksum of the first `count` entries."""
    return checksum_of([entry[name] for name in _CLEAR_FIELDS] for entry in entries(count))


def checksum_of_events(made: Iterable[Event]) -> int:
    """The same of events."""
    return checksum_of([getattr(event, name) for name in _CLEAR_FIELDS] for event in made)


def checksum_of(rows: Iterable[Iterable[str]]) -> int:
    """One number for rows of `CLEAR_COLUMNS`, whatever their order; a row lost, doubled or altered changes it."""
    return sum(int.from_bytes(blake2b("\0".join(row).encode(), digest_size=8).digest()) for row in rows) % 2**64


CLEAR_COLUMNS = ", ".join(_CLEAR_FIELDS)
