"""The published contract against the running server: whatever it allows is answered, and as it says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.command import run
from tests.http.conftest import Live

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CONFIG = Path(__file__).with_name("openapi_fuzz.toml")
EXAMPLES = 20
"""Made a route and phase; the phase `coverage` tries about 1,500 requests of its own."""
ROOT = Path(__file__).parents[2]


async def fuzz(live: Live, key: str, folder: Path, *options: str) -> None:
    """Run schemathesis with every check that it has but the one that ours is sharper than."""
    ended = await run(
        SCHEMATHESIS,
        *("--config-file", CONFIG, "--no-color", "run", f"{live.up.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {key}"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)),
        *("--exclude-checks", "positive_data_acceptance", "--continue-on-failure", "--no-shrink"),
        "--generation-deterministic",
        *("--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "10"),
        *options,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.fuzz_hooks"},
    )
    told = "\n".join(line[:1_000] for line in ended.out.splitlines())
    assert ended.status == 0, told + ended.err
    assert "Tested: " in told


async def test_every_answer_to_a_tenants_admin_is_as_published(live: Live, tmp_path: Path) -> None:
    _, key = await live.new_tenant("acme")  # the contract's own example, so that paths lead somewhere
    await fuzz(live, key, tmp_path)


async def test_every_answer_to_the_operator_is_as_published(live: Live, tmp_path: Path) -> None:
    await fuzz(live, live.operator_key, tmp_path, "--include-path-regex", "^/api/v1/tenants(/{tenant_id})?$")


async def test_the_whole_document_is_valid_and_each_operation_has_its_name(live: Live) -> None:
    async with live.client(None) as client:
        document = (await client.get("/openapi.json")).raise_for_status().json()
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names)) >= 14
    assert all(name == name.lower() for name in names)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert any(status.startswith("2") for status in operation["responses"]), (method, path)
            assert "security" in operation, (method, path)


@pytest.mark.parametrize("path", ["/api/v1/logs", "/api/v1/tenants/{tenant_id}", "/api/v1/mock-login", "/docs"])
async def test_what_is_allowed_and_what_is_not_is_the_same_with_and_without_a_credential(live: Live, path: str) -> None:
    for key in (None, live.operator_key):
        async with live.client(key) as client:
            refused = await client.request("TRACE", path)
            asked = await client.options(path)
        assert refused.status_code == 405
        assert asked.status_code == 204
        assert refused.headers["allow"] == asked.headers["allow"]
