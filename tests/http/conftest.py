"""One running `auditlog up`, which the tests that attack a real server share."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.command import Up, up
from tests.services import short_folder


@dataclass(frozen=True)
class Live:
    """A running server without a demo, in development mode."""

    up: Up

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.up.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    @property
    def operator_key(self) -> str:
        """The operator's API key."""
        return self.up.profile["token"]

    def client(self, credential: str | None, **more: Any) -> httpx.AsyncClient:
        """A client with that credential; paths begin at the root."""
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        return httpx.AsyncClient(base_url=self.up.url, headers=headers, timeout=30, trust_env=False, **more)

    async def new_tenant(self, name: str | None = None, **fields: Any) -> tuple[str, str]:
        """A tenant, of a name that no other has unless told, changed by `fields`: its id, and its admin's API key."""
        name = name or f"t{uuid.uuid4().hex}"
        async with self.client(self.operator_key) as operator:
            made = await operator.post("/api/v1/tenants", json={"tenant_id": name, "name": name})
            key = str(made.raise_for_status().json()["first_key"]["api_key"])
            if fields:
                (await operator.patch(f"/api/v1/tenants/{name}", json=fields)).raise_for_status()
        return name, key


@pytest.fixture(scope="session")
async def live() -> AsyncIterator[Live]:
    """The server, ready; it ends without a word of complaint."""
    with short_folder() as folder:
        async with up(folder, "--no-demo") as started:
            yield Live(started)
            assert started.process.returncode is None, started.erred()
            started.stop()
            assert await started.ended() == 0
            assert "Traceback" not in started.erred(), started.erred()
