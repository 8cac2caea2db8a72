"""What a service contributes to a process: routes, workers, checks, and what it opens and closes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from audit_kit.policies import Policy

Json = Mapping[str, Any]
JSON_ONLY = ("application/json",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRoute:
    """
    A route on plain Starlette, for where FastAPI's validation would cost more than the work itself.

    `operation` is its OpenAPI 3.1 operation object; the answers that every route may give (401, 403, 429, …) and the
    security requirement are added to it. None keeps the route out of the document. `consumes` lists the media types of
    a request body, and none for a route without one; `produces` those that an answer may have, and none leaves the
    request's Accept alone.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    policy: Policy
    operation: Json | None
    consumes: tuple[str, ...] = ()
    produces: tuple[str, ...] = JSON_ONLY


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """
    Something that runs beside the server for as long as the process does.

    `run` gets an event that is set when it is to stop; it then finishes what it has in hand and returns. If it returns
    or raises before that, the process ends with a failure.
    """

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCheck:
    """`check` returns where the part can serve something, and raises an `AuditLogError` where it can serve nothing."""

    name: str
    check: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """
    One service, as any process can run it.

    `opened` is entered before the first request and left after the last worker; ports are given to a part open, and
    closed by who opened them. `schemas` are named OpenAPI components that the operations of `routes` refer to.
    """

    name: str
    routers: Sequence[APIRouter] = ()
    routes: Sequence[RawRoute] = ()
    schemas: Mapping[str, Json] = field(default_factory=dict)
    workers: Sequence[Worker] = ()
    ready_checks: Sequence[ReadyCheck] = ()
    opened: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
