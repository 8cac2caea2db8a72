"""What is sent: entries of 600 bytes from 200 users, as an application's audit log has them. Always the same ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

_ACTIONS = ("user.login", "user.logout", "document.view", "document.update", "invoice.approve", "export.create")
_TYPES = ("session", "document", "invoice", "report")
_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


def entries(count: int, *, seed: int = 1, now: datetime | None = None) -> Iterator[dict[str, Any]]:
    """`count` entries ready for POST /logs."""
    chance = random.Random(seed)
    start = (now or datetime.now(UTC)) - timedelta(minutes=10)
    for i in range(count):
        resource = chance.randrange(50_000)
        yield {
            "user_id": f"user-{chance.randrange(200):03d}@example.com",
            "action": chance.choice(_ACTIONS),
            "resource_type": chance.choice(_TYPES),
            "resource_id": f"res-{resource:05d}",
            "timestamp": (start + timedelta(milliseconds=i % 60_000)).isoformat(),
            "severity": "WARNING" if chance.random() < 0.05 else "INFO",
            "outcome": "failure" if chance.random() < 0.03 else "success",
            "ip_address": f"10.{chance.randrange(4)}.{chance.randrange(256)}.{chance.randrange(1, 255)}",
            "user_agent": _AGENT,
            "session_id": f"sess-{chance.randrange(2_000):08x}",
            "metadata": {"tenant_plan": "enterprise", "region": "eu-west-1", "attempt": i % 3, "latency_ms": i % 997},
            "before": {"status": "draft", "amount": resource * 7, "tags": ["a", "b"]},
            "after": {"status": "approved", "amount": resource * 7 + 1, "tags": ["a", "b", "c"]},
        }
