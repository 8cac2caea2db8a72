"""What the published contract says alike of many of admin's operations."""

from __future__ import annotations

from typing import Any, Final

from fastapi.routing import APIRoute

BAD_REQUEST: Final[dict[str, Any]] = {"$ref": "#/components/responses/BadRequest"}
CONFLICT: Final[dict[str, Any]] = {"$ref": "#/components/responses/Conflict"}
OUTDATED: Final[dict[str, Any]] = {"$ref": "#/components/responses/Outdated"}


def operation_id(route: APIRoute) -> str:
    """The handler's name, which clients that are generated from the contract call it by."""
    return route.name
