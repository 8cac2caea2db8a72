"""What query publishes of itself is valid OpenAPI, and true."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from audit_contracts.event import Entry
from audit_contracts.query import EXACT_FIELDS, PREFIX_FIELDS
from audit_kit.docs import openapi_document
from tests.events import an_event
from tests.query_world import QueryWorld, open_query
from tests.services import Database


@pytest.fixture(scope="module")
async def query(module_database: Database) -> AsyncIterator[QueryWorld]:
    async with open_query(module_database) as world:
        yield world


@pytest.fixture
def document(query: QueryWorld) -> dict[str, Any]:
    return openapi_document([query.part])


def validator(document: dict[str, Any], name: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return Draft202012Validator(schema, format_checker=FormatChecker())


async def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


async def test_every_filter_is_published(document: dict[str, Any]) -> None:
    names = [parameter["name"] for parameter in document["paths"]["/api/v1/logs"]["get"]["parameters"]]
    fields = {*EXACT_FIELDS, *(f"{of}.not" for of in EXACT_FIELDS), *(f"{of}.prefix" for of in PREFIX_FIELDS)}
    others = {"from", "to", "tenant_id", "include_access", "sort", "limit", "next_token", "total"}
    assert sorted(names) == sorted(fields | others)


async def test_every_field_of_an_entry_is_published(document: dict[str, Any]) -> None:
    assert set(document["components"]["schemas"]["Entry"]["properties"]) == set(Entry.__struct_fields__)


async def test_the_examples_are_what_they_are_examples_of(document: dict[str, Any]) -> None:
    for name in ("Entry", "Page"):
        for example in document["components"]["schemas"][name]["examples"]:
            validator(document, name).validate(example)


async def test_answers_are_as_published(query: QueryWorld, document: dict[str, Any]) -> None:
    acme = await query.new_tenant()
    full = an_event(
        source="billing",
        subject_id="s",
        session_id="sess",
        ip_address="2001:db8::1",
        user_agent="agent",
        request_id="r-1",
        correlation_id="c-1",
        trace_id="t-1",
        producer_id="p-1",
        producer_seq=7,
        flags=["late"],
        changes=b'{"before":1,"after":[]}',
    )
    page, entry = validator(document, "Page"), validator(document, "Entry")
    async with query.client(acme) as client:
        page.validate((await client.get("/logs")).json())
        await query.append(acme, an_event(), full)
        page.validate((await client.get("/logs", params={"limit": 1, "total": "true"})).json())
        entry.validate((await client.get(f"/logs/{full.id}")).json())
        await query.owner.execute("DELETE FROM auditlog.owner_keys WHERE tenant = $1", acme)
        problem = validator(document, "Problem")
        for path in (f"/logs/{uuid.uuid4()}", "/logs?colour=red"):
            problem.validate((await client.get(path)).json())
