"""No secret that a producer sends survives in an answer, in the queue or in the logs, wherever it stood."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ingest_server import IngestServer, entry, ingest_server
from tests.ingest_world import ingest_world
from tests.services import Database

# Each is a secret by its looks; none may be found again, nor the part of it that makes it one.
SECRETS = {
    "4111 1111 1111 1111": "4111 1111 1111",
    "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U": "dozjgNryP4J3",
    "Bearer mF_9.B5f-4.1JqMabcdefgh": "mF_9.B5f-4.1JqM",
    "078-05-1120": "078-05-1120",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a": "16C7e42F292c69",  # house: allow(secret)
    "postgres://app:hunter2hunter2@db.example/x": "hunter2hunter2",
}
SECRET_KEYS = ["password", "clientSecret", "X-API-Key", "access_token", "cvv", "private_key"]
UNDER_A_KEY = "only-its-key-tells"

_secrets = st.sampled_from(sorted(SECRETS))
_texts = st.builds(
    "{} {} {}".format, st.sampled_from(["", "see", "(", "token:"]), _secrets, st.sampled_from(["", "now", ")"])
)
_leaves = st.none() | st.booleans() | st.integers(0, 99) | st.just("plain") | _secrets | _texts
_values = st.recursive(
    _leaves | st.dictionaries(st.sampled_from(SECRET_KEYS), st.just(UNDER_A_KEY), min_size=1, max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "note"]) | _secrets, inner),
    max_leaves=8,
)
_entries = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.dictionaries(st.sampled_from(["a", "b"]) | _secrets, _values, max_size=4),
        "before": _values,
        "after": _values | st.builds(json.dumps, _values),
        "details": _texts,
        "user_agent": _texts,
        "resource_id": _texts,
        "user_id": _secrets,
        "subject_id": _secrets,
        "session_id": _secrets,
    },
)


@pytest.fixture(scope="module")
async def server(module_database: Database) -> AsyncIterator[IngestServer]:
    async with ingest_world(module_database) as world, ingest_server(world) as server:
        yield server


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=_entries)
async def test_no_seeded_secret_survives(
    server: IngestServer, capsys: pytest.CaptureFixture[str], fields: dict[str, Any]
) -> None:
    tenant = await server.world.new_tenant()
    sent = entry() | fields
    async with server.client(tenant) as client:
        single = await client.post("/api/v1/logs", json=sent)
        bulk = await client.post("/api/v1/logs/bulk", json=[sent, entry()])
        refused = await client.post("/api/v1/logs", json=sent | {"severity": "loud"})
    assert (single.status_code, bulk.status_code, refused.status_code) == (201, 201, 422)
    events = await server.world.events(tenant)
    kept = [msgspec.json.encode(event) + (event.changes or b"") + (event.content or b"") for event in events]
    seen = b"".join([single.content, bulk.content, refused.content, *kept]).decode() + "".join(capsys.readouterr())
    for secret in (*SECRETS.values(), UNDER_A_KEY):
        assert secret not in seen
