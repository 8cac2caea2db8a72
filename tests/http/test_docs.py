"""The published contract is whole, valid and served from what is installed."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from audit_contracts.principal import Permission, Role
from audit_kit.docs import docs_part, openapi_document
from audit_kit.part import Part, RawRoute
from audit_kit.policies import Access, public, requires
from tests.kit_world import world


class Thing(BaseModel):
    size: int


def parts() -> list[Part]:
    router = APIRouter(prefix="/api/v1", tags=["things"])

    @router.get("/things")
    @public
    async def listed(limit: int = 10) -> list[Thing]:
        return [Thing(size=limit)]

    @router.post("/things/{name}")
    @requires(Permission.TENANT_WRITE, roles={Role.ADMIN})
    async def made(name: str, thing: Thing) -> Thing:
        return thing

    async def post(_request: Request) -> Response:
        raise AssertionError

    raw = RawRoute(
        method="POST",
        path="/api/v1/logs",
        handler=post,
        policy=Access(permission=Permission.LOGS_WRITE),
        operation={
            "summary": "Send one entry",
            "operationId": "postLog",
            "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Entry"}}}},
            "responses": {"201": {"description": "Kept."}, "413": {"description": "Of its own."}},
        },
        consumes=("application/json",),
    )
    hidden = RawRoute(method="GET", path="/hidden", handler=post, policy=raw.policy, operation=None)
    return [
        Part(name="ingest", routes=[raw, hidden], schemas={"Entry": {"type": "object"}}),
        Part(name="admin", routers=[router]),
    ]


@pytest.fixture
def document() -> dict[str, Any]:
    return openapi_document(parts())


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with world([*parts(), docs_part(parts())]) as opened, opened.client("") as anonymous:
        yield anonymous


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_it_has_the_routes_of_all_parts_and_no_hidden_one(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {"/api/v1/logs", "/api/v1/things", "/api/v1/things/{name}"}
    assert document["components"]["schemas"]["Entry"] == {"type": "object"}


def test_each_operation_says_who_may_call_it(document: dict[str, Any]) -> None:
    assert document["paths"]["/api/v1/things"]["get"]["security"] == []
    expected = [{"token": ["logs:write"]}, {"apiKey": ["logs:write"]}]
    assert document["paths"]["/api/v1/logs"]["post"]["security"] == expected
    assert set(document["components"]["securitySchemes"]) == {"token", "apiKey"}


def test_each_operation_lists_the_problems_that_it_can_answer(document: dict[str, Any]) -> None:
    post = document["paths"]["/api/v1/logs"]["post"]["responses"]
    assert set(post) == {"201", "400", "401", "403", "406", "413", "415", "422", "429", "500", "503"}
    assert post["413"] == {"description": "Of its own."}, "what a route declares stands"
    made = document["paths"]["/api/v1/things/{name}"]["post"]["responses"]
    assert {"404", "415", "422"} <= set(made)
    assert set(document["paths"]["/api/v1/things"]["get"]["responses"]) == {"200", "406", "422", "500"}


def test_every_problem_is_a_problem_document(document: dict[str, Any]) -> None:
    for response in document["components"]["responses"].values():
        assert list(response["content"]) == ["application/problem+json"]
    assert "HTTPValidationError" not in str(document)


async def test_the_page_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "http" not in policy
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert addresses
    for address in addresses:
        assert address.startswith("/docs/")
        asset = await client.get(address)
        assert asset.status_code == 200, address
        assert len(asset.content) > 100
    assert "<script>" not in page.text


async def test_the_page_asks_for_the_document_that_is_served(client: httpx.AsyncClient) -> None:
    start = (await client.get("/docs/start.js")).text
    (address,) = re.findall(r'url: "([^"]+)"', start)
    assert (await client.get(address)).json()["openapi"].startswith("3.1")
