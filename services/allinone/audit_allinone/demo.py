"""
A small company's last two weeks, for somebody who looks around: the demo tenant's entries.

The same tenant always has the same entries, ids included, so that importing them again adds nothing. Passwords, card
numbers and tokens are among them on purpose, to be seen masked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

TENANT: Final = "demo"
NAME: Final = "Demo company"
SOURCE: Final = "demo"

_NAMESPACE: Final = UUID("5a1c1d0e-6d0c-4f43-9a57-1b1d3c0f7a52")
_DAYS: Final = 14
_PEOPLE: Final = (
    ("amara.okafor", "finance", "10.20.1.14"),
    ("bruno.keller", "support", "10.20.2.31"),
    ("chiara.rossi", "sales", "10.20.3.8"),
    ("dmitri.volkov", "engineering", "10.20.4.77"),
    ("elif.demir", "finance", "10.20.1.22"),
    ("farah.nasser", "people", "10.20.5.3"),
)
_BROWSERS: Final = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36",
)
_WORK: Final[dict[str, Sequence[tuple[str, str]]]] = {
    "finance": (
        ("VIEW", "invoice"),
        ("VIEW", "invoice"),
        ("CREATE", "invoice"),
        ("APPROVE", "payment"),
        ("EXPORT", "report"),
    ),
    "support": (
        ("VIEW", "ticket"),
        ("VIEW", "customer"),
        ("UPDATE", "ticket"),
        ("UPDATE", "ticket"),
        ("VIEW", "customer"),
    ),
    "sales": (
        ("VIEW", "customer"),
        ("UPDATE", "customer"),
        ("CREATE", "quote"),
        ("VIEW", "quote"),
        ("EXPORT", "report"),
    ),
    "engineering": (("VIEW", "dashboard"), ("UPDATE", "feature_flag"), ("CREATE", "api_key"), ("DELETE", "api_key")),
    "people": (("VIEW", "employee"), ("UPDATE", "employee"), ("VIEW", "employee"), ("CREATE", "employee")),
}
_CHANGES: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "ticket": ({"status": "open", "assignee": None}, {"status": "pending", "assignee": "bruno.keller"}),
    "customer": ({"plan": "team", "card": "4111 1111 1111 1111"}, {"plan": "business", "card": "5555 5555 5555 4444"}),
    "feature_flag": ({"enabled": False, "share": 0}, {"enabled": True, "share": 25}),
    "employee": ({"level": 3, "ssn": "536-22-8726"}, {"level": 4, "ssn": "536-22-8726"}),
}


def entries(made_at: datetime) -> list[dict[str, Any]]:
    """About 300 entries of the two weeks before `made_at`, oldest first, as they are posted."""
    chance = random.Random(TENANT)  # noqa: S311 - a story, no secret
    start = made_at - timedelta(days=_DAYS)
    told = [entry for day in range(_DAYS) for entry in _day(chance, start + timedelta(days=day))]
    told += _break_in(made_at - timedelta(hours=7))
    told.sort(key=lambda entry: entry["timestamp"])
    for number, entry in enumerate(told):
        entry["id"] = str(uuid5(_NAMESPACE, f"{made_at.isoformat()} {number}"))
        entry["timestamp"] = entry["timestamp"].isoformat()
        entry["source"] = SOURCE
    return told


def _day(chance: random.Random, day: datetime) -> Iterator[dict[str, Any]]:
    for person, team, address in chance.sample(_PEOPLE, k=3):
        at = day + timedelta(minutes=chance.randrange(60, 1_200))
        who = {
            "user_id": person,
            "session_id": f"s-{chance.getrandbits(48):012x}",
            "ip_address": address,
            "user_agent": chance.choice(_BROWSERS),
        }
        if chance.random() < 0.2:
            yield _entry(
                who, at, "LOGIN", "user", person, outcome="failure", severity="WARNING", details="wrong password"
            )
            at += timedelta(seconds=chance.randrange(4, 40))
        yield _entry(who, at, "LOGIN", "user", person, metadata={"method": "password", "mfa": True})
        for _ in range(chance.randrange(3, 7)):
            at += timedelta(seconds=chance.randrange(20, 900))
            action, kind = chance.choice(_WORK[team])
            yield _entry(
                who, at, action, kind, f"{kind}-{chance.randrange(1_000, 1_200)}", **_more(chance, action, kind)
            )
        yield _entry(who, at + timedelta(minutes=5), "LOGOUT", "user", person)


def _more(chance: random.Random, action: str, kind: str) -> dict[str, Any]:
    if action == "UPDATE":
        before, after = _CHANGES[kind]
        return {"before": before, "after": after}
    if action == "EXPORT":
        return {"severity": "WARNING", "metadata": {"format": "csv", "rows": chance.randrange(40, 4_000)}}
    if kind == "api_key":
        return {"metadata": {"name": "ci", "api_key": f"{chance.getrandbits(128):032x}"}}
    return {}


def _break_in(at: datetime) -> Iterator[dict[str, Any]]:
    """Somebody tries passwords from afar, gets in, and takes the customers with them."""
    who = {"user_id": "bruno.keller", "ip_address": "203.0.113.66", "user_agent": "python-requests/2.32.4"}
    for attempt in range(12):
        tried = {"method": "password", "password": f"summer{2014 + attempt}"}
        yield _entry(
            who,
            at + timedelta(seconds=2 * attempt),
            "LOGIN",
            "user",
            "bruno.keller",
            outcome="failure",
            severity="WARNING",
            details="wrong password",
            metadata=tried,
        )
    who["session_id"] = "s-00c0ffee0bad"
    at += timedelta(seconds=40)
    yield _entry(
        who, at, "LOGIN", "user", "bruno.keller", severity="WARNING", metadata={"method": "password", "mfa": False}
    )
    exported = {"format": "csv", "rows": 18_204}
    at += timedelta(seconds=55)
    yield _entry(who, at, "EXPORT", "customer", "all", severity="CRITICAL", metadata=exported)


def _entry(
    who: dict[str, Any], at: datetime, action: str, resource_type: str, resource_id: str, **more: Any
) -> dict[str, Any]:
    return {
        **who,
        "timestamp": at,
        "action": action,
        "resource_type": resource_type,
        "resource_id": resource_id,
        "outcome": "success",
        **more,
    }
