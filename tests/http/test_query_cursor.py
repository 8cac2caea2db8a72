"""A list page by page: each entry exactly once, however many arrive meanwhile, and no token for another question."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import cycle
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from audit_contracts.event import Event
from audit_contracts.principal import DataScope, Role, TenantId
from audit_contracts.query import ALL, Direction, Filter
from audit_kit.keyring import NEWEST_FOR_S
from audit_query import reading
from tests.events import an_event
from tests.kit_world import ManualClock
from tests.query_world import QueryWorld, open_query
from tests.questions import events, filters, is_match
from tests.services import Database

FIRST_DAY = datetime(2027, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
async def query(module_database: Database) -> AsyncIterator[QueryWorld]:
    async with open_query(module_database) as world:
        yield world


def query_string(filter: Filter, **more: str | int) -> str:
    """The filter as a client writes it."""
    pairs: list[tuple[str, Any]] = list(more.items())
    pairs += [("from", filter.since.isoformat())] if filter.since else []
    pairs += [("to", filter.until.isoformat())] if filter.until else []
    for of, suffix in ((filter.equal, ""), (filter.unequal, ".not"), (filter.prefix, ".prefix")):
        pairs += [(f"{field}{suffix}", value) for field, values in of.items() for value in values]
    pairs += [("include_access", "true")] if filter.include_access else []
    return "&".join(f"{name}={quote(str(value), safe='')}" for name, value in pairs)


async def page(client: httpx.AsyncClient, question: str, token: str | None) -> tuple[list[int], str | None]:
    answer = await client.get(f"/logs?{question}" + (f"&next_token={token}" if token else ""))
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["count"] == len(document["results"])
    return [entry["position"] for entry in document["results"]], document["next_token"]


class Listing(msgspec.Struct, frozen=True):
    """One list: what is asked, the limit of each page in turn, and what arrives beside pages after the first."""

    filter: Filter
    direction: Direction
    limits: list[int]
    arrivals: list[list[Event]]
    budget: int


listings = st.builds(
    Listing,
    filter=filters().filter(lambda of: not (of.since and of.until and of.until <= of.since)),
    direction=st.sampled_from(Direction),
    limits=st.lists(st.sampled_from([1, 2, 7]), min_size=1, max_size=4),
    arrivals=st.lists(st.lists(events(), max_size=3), max_size=4),
    budget=st.sampled_from([3, 10_000]),
)


# Shrinking a failure on a real database takes minutes, and the example that failed is small as it is.
@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    days=st.lists(st.lists(events(), min_size=1, max_size=8), min_size=1, max_size=6),
    asked=st.lists(listings, min_size=1, max_size=4),
)
async def test_each_entry_of_the_first_pages_log_appears_once_while_others_arrive(
    query: QueryWorld, monkeypatch: pytest.MonkeyPatch, days: list[list[Event]], asked: list[Listing]
) -> None:
    acme = await query.new_tenant()
    await query.fill(acme, days, first_day=FIRST_DAY)
    log = [event for day in days for event in day]
    # Only the budget ends a page that is not full.
    monkeypatch.setattr(reading, "SLICES_S", 0)
    async with query.client(acme) as client:
        for listing in asked:
            monkeypatch.setattr(reading, "BUDGET", listing.budget)
            expected = [i for i, event in enumerate(log) if is_match(event, listing.filter, ALL)]

            limits, arrivals = cycle(listing.limits), iter(listing.arrivals)
            question = query_string(listing.filter, sort=listing.direction.value)
            found, token = await page(client, f"{question}&limit={next(limits)}", None)
            while token is not None:
                arriving = next(arrivals, [])
                (positions, token), _ = await asyncio.gather(
                    page(client, f"{question}&limit={next(limits)}", token), query.append(acme, *arriving)
                )
                found += positions
                log += arriving

            assert found == (expected[::-1] if listing.direction is Direction.NEWEST_FIRST else expected)


async def test_writers_that_race_with_a_list_neither_double_nor_hide_an_entry(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    await query.append(acme, *[an_event() for _ in range(50)])
    done = asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            await query.append(acme, an_event(), an_event())

    async with query.client(acme) as client:
        writer = asyncio.create_task(write())
        try:
            for sort in ("-position", "position"):
                found, token = await page(client, f"limit=3&sort={sort}", None)
                while token is not None:
                    positions, token = await page(client, f"limit=3&sort={sort}", token)
                    found += positions
                assert sorted(found) == list(range(len(found)))
                assert found == sorted(found, reverse=sort == "-position")
                assert len(found) >= 50
        finally:
            done.set()
            await writer


async def a_token(query: QueryWorld, tenant: TenantId, question: str = "limit=1", **client: Any) -> str:
    async with query.client(tenant, **client) as reader:
        _, token = await page(reader, question, None)
    assert token is not None
    return token


async def refused(client: httpx.AsyncClient, question: str, token: str) -> bool:
    answer = await client.get(f"/logs?{question}&next_token={quote(token, safe='')}")
    if answer.status_code == 200:
        return False
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:auditlog:problem:invalid-cursor")
    return True


async def test_a_token_that_was_altered_anywhere_is_refused(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    await query.append(acme, *[an_event() for _ in range(5)])
    token = await a_token(query, acme)
    raw = base64.urlsafe_b64decode(token)

    async with query.client(acme) as client:
        assert not await refused(client, "limit=1", token)
        for at in range(len(raw)):
            altered = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
            assert await refused(client, "limit=1", base64.urlsafe_b64encode(altered).decode())
        others = (token[:-4], token + "AAAA", token[:-1] + "!", "*" + token[1:], "A" * len(token), "x", "é" * 64)
        for other in others:
            assert await refused(client, "limit=1", other)


async def test_a_token_is_good_for_its_tenant_alone(query: QueryWorld) -> None:
    acme, globex = await query.new_tenant(), await query.new_tenant()
    for tenant in (acme, globex):
        await query.append(tenant, *[an_event() for _ in range(5)])
    token = await a_token(query, acme)
    async with query.client(globex) as client:
        assert await refused(client, "limit=1", token)


@pytest.mark.parametrize(
    "other",
    [
        "sort=position",
        "include_access=true",
        "user_id=ada",
        "severity=INFO&outcome=success",
        "outcome=failure",
        "outcome.not=success",
        "severity=INFO&severity=ERROR",
        "severity=INFO&from=2026-01-01T00:00:00Z",
        "severity=INFO&to=2027-01-01T00:00:00Z",
    ],
)
async def test_a_token_is_good_for_its_filter_alone(query: QueryWorld, other: str) -> None:
    acme = await query.new_tenant()
    await query.append(acme, *[an_event() for _ in range(5)])
    token = await a_token(query, acme, "limit=1&severity=INFO")
    async with query.client(acme) as client:
        assert await refused(client, other, token)


async def test_a_token_does_not_mind_how_the_same_question_is_written(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    await query.append(acme, *[an_event() for _ in range(5)])
    question = "limit=1&severity=INFO&severity=ERROR&ip_address.not=2001:DB8::1&from=2026-01-01T01:00:00%2B01:00"
    token = await a_token(query, acme, question)
    same = "ip_address.not=2001:db8:0::1&from=2026-01-01T00:00:00Z&severity=ERROR&severity=INFO&limit=2&total=true"
    async with query.client(acme, subject="another") as client:
        positions, _ = await page(client, same, token)
    assert positions == [3, 2]


async def test_a_token_is_good_for_the_same_view_alone(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    await query.append(acme, *[an_event(user_id="ann", resource_type="file") for _ in range(5)])
    whole = await a_token(query, acme)
    own = await a_token(query, acme, role=Role.USER, subject="ann")
    files = DataScope(resource_types=frozenset({"file"}))
    async with await query.scoped_client(acme, files) as scoped:
        _, narrow = await page(scoped, "limit=1", None)
        assert narrow is not None
        assert await refused(scoped, "limit=1", whole)
        assert await refused(scoped, "limit=1", own)
    async with query.client(acme) as client:
        assert await refused(client, "limit=1", own)
        assert await refused(client, "limit=1", narrow)
    async with query.client(acme, Role.USER, subject="bob") as client:
        assert await refused(client, "limit=1", own)
    async with await query.scoped_client(acme, files) as another:
        assert not await refused(another, "limit=1", narrow)


async def test_a_token_outlives_the_rotation_of_its_key(database: Database) -> None:
    clock = ManualClock()
    async with open_query(database, clock=clock) as query:
        acme = await query.new_tenant()
        await query.append(acme, *[an_event() for _ in range(5)])
        token = await a_token(query, acme)
        await query.registry.rotate_keys(acme)
        clock.advance(NEWEST_FOR_S + 1)
        async with query.client(acme) as client:
            positions, later = await page(client, "limit=1", token)
            assert positions == [3]
            assert later is not None
            assert later[:16] != token[:16]
            assert (await page(client, "limit=1", later))[0] == [2]


async def test_a_token_tells_nothing_of_the_question(query: QueryWorld) -> None:
    acme = await query.new_tenant()
    await query.append(acme, *[an_event(user_id="ada") for _ in range(5)])
    one = await a_token(query, acme, "limit=1&user_id=ada")
    other = await a_token(query, acme, "limit=1&user_id=ada&action=user.login")
    # Key, size and position are alike; only the code at the end differs.
    assert one[:42] == other[:42]
    assert one != other
    assert b"ada" not in base64.urlsafe_b64decode(one)
    assert uuid.UUID(bytes=base64.urlsafe_b64decode(one)[:16]).version == 4
