"""Tokens of anybody, from a server in development mode."""

from __future__ import annotations

import httpx

from audit_allinone.client import TIMEOUT, answer


def mocked(url: str, *, tenant: str, user: str, role: str) -> str:
    """
    A token of the development mode, good for an hour.

    Raises:
        Failure: there is no such tenant, or the server is not in development mode.
    """
    asked = {"tenant_id": tenant, "user_id": user, "access_level": role}
    response = httpx.post(f"{url}/api/v1/mock-login", json=asked, timeout=TIMEOUT)
    return str(answer(response)["access_token"])
