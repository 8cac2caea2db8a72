"""One table for the routes of all parts, so that two of them can share a path and 405 still names every method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from fastapi import APIRouter
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from prometheus_client import Counter
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from audit_kit.metrics import HTTP_REQUESTS, HTTP_SECONDS
from audit_kit.part import JSON_ONLY, Part, RawRoute
from audit_kit.policies import Policy, policy_of

OPTIONS: Final = "OPTIONS"


class DuplicateRoute(Exception):
    """Two routes of a process answer the same method and path."""


class NestedRouter(Exception):
    """A part's router holds something else than plain routes; routers are listed in the part, not nested."""


class Endpoint:
    """One method of one path: its policy, what it takes and gives, and its metrics at hand."""

    def __init__(self, *, part: str, method: str, route: Route, policy: Policy, app: ASGIApp) -> None:
        self.part = part
        self.method = method
        self.path = route.path_format
        self.label = f"{method} {route.path_format}"
        self.policy = policy
        self.app = app
        self.consumes: tuple[str, ...] = ()
        self.produces: tuple[str, ...] = JSON_ONLY
        self.is_fastapi = isinstance(route, APIRoute)
        self.seconds = HTTP_SECONDS.labels(part, self.label)
        self.route = route
        self._counts: dict[str, Counter] = {}

    def count(self, status: str) -> None:
        """One more answer of this class of status."""
        counter = self._counts.get(status)
        if counter is None:
            counter = self._counts[status] = HTTP_REQUESTS.labels(self.part, self.label, status)
        counter.inc()

    def fill(self, scope: Scope) -> None:
        """Put into the scope what handlers expect of a router: the route and its path's parameters."""
        if self.is_fastapi or self.route.param_convertors:
            scope.update(self.route.matches(scope)[1])
        else:
            scope["path_params"] = {}
        scope["route"] = self.route


class Path:
    """What answers at one path template, by method."""

    def __init__(self, route: Route) -> None:
        self.template = route.path_format
        self.pattern = route.path_regex
        self.is_static = not route.param_convertors
        self._by_method: dict[str, Endpoint] = {}

    def add(self, endpoint: Endpoint) -> None:
        """Raises DuplicateRoute where there is one for the method."""
        if endpoint.method in self._by_method:
            raise DuplicateRoute(f"{endpoint.label} is answered by two parts")
        self._by_method[endpoint.method] = endpoint

    def endpoint(self, method: str) -> Endpoint | None:
        """What answers `method`; a GET answers HEAD too."""
        found = self._by_method.get(method)
        return self._by_method.get("GET") if found is None and method == "HEAD" else found

    @property
    def allow(self) -> str:
        """All methods, as a value of the Allow header."""
        methods = {OPTIONS, *self._by_method}
        if "GET" in methods:
            methods.add("HEAD")
        return ", ".join(sorted(methods))


class RouteTable:
    """
    The routes of `parts`.

    Raises (when built):
        UndeclaredPolicy: a route declares no access policy.
        DuplicateRoute: two parts have the same route.
        NestedRouter: a router isn't flat.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.endpoints: Sequence[Endpoint] = [endpoint for part in parts for endpoint in _endpoints(part)]
        self._static: dict[str, Path] = {}
        paths: dict[str, Path] = {}
        for endpoint in self.endpoints:
            path = paths.setdefault(endpoint.path, Path(endpoint.route))
            path.add(endpoint)
            if path.is_static:
                self._static[path.template] = path
        self._dynamic = [path for path in paths.values() if not path.is_static]

    def find(self, path: str) -> Path | None:
        """What stands at `path`; a literal one wins over a template."""
        found = self._static.get(path)
        if found is not None:
            return found
        return next((dynamic for dynamic in self._dynamic if dynamic.pattern.match(path)), None)


def _endpoints(part: Part) -> Iterator[Endpoint]:
    for raw in part.routes:
        yield _raw_endpoint(part.name, raw)
    for router in part.routers:
        yield from _fastapi_endpoints(part.name, router)


def _raw_endpoint(part: str, raw: RawRoute) -> Endpoint:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await raw.handler(Request(scope, receive, send))
        await response(scope, receive, send)

    route = Route(raw.path, raw.handler, methods=[raw.method])
    endpoint = Endpoint(part=part, method=raw.method, route=route, policy=raw.policy, app=app)
    endpoint.consumes, endpoint.produces = raw.consumes, raw.produces
    return endpoint


def _fastapi_endpoints(part: str, router: APIRouter) -> Iterator[Endpoint]:
    for route in router.routes:
        if not isinstance(route, APIRoute):
            raise NestedRouter(f"the part {part} has a {type(route).__name__} in a router; list routers in the part")
        methods = sorted(route.methods or ())
        policy = policy_of(route.endpoint, f"{', '.join(methods)} {route.path}")
        app = AsyncExitStackMiddleware(route.handle)
        for method in methods:
            endpoint = Endpoint(part=part, method=method, route=route, policy=policy, app=app)
            endpoint.consumes = JSON_ONLY if route.body_field is not None else ()
            media_type = getattr(route.response_class, "media_type", None)
            endpoint.produces = (media_type,) if media_type else ()
            yield endpoint
