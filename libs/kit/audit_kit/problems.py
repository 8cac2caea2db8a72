"""Every error as an RFC 9457 problem: one table from class to status, type and title."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from audit_contracts import errors
from audit_kit.tracing import current_trace

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:auditlog:problem:"
CHALLENGE: Final = 'Bearer realm="auditlog"'

_PATH_SAFE: Final = "/:@!$&'()*+,;=~"
"""What RFC 3986 lets stand in a path as it is."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table: what clients may rely on for good."""

    status: int
    slug: str
    title: str


KINDS: Final[Mapping[type[errors.AuditLogError], Kind]] = {
    errors.AuditLogError: Kind(500, "internal-error", "Something broke on our side"),
    errors.Refused: Kind(400, "refused", "The request is wrong as it stands"),
    errors.InvalidEntry: Kind(422, "invalid-entry", "The document breaks its contract"),
    errors.InvalidQuery: Kind(422, "invalid-query", "The question can't be answered as asked"),
    errors.InvalidParameter: Kind(422, "invalid-parameter", "A parameter is unknown or out of bounds"),
    errors.InvalidCursor: Kind(400, "invalid-cursor", "The next_token doesn't belong to this question"),
    errors.IdempotencyConflict: Kind(422, "idempotency-conflict", "The Idempotency-Key was used with another body"),
    errors.TooLarge: Kind(413, "too-large", "A bound on size was passed"),
    errors.Unauthenticated: Kind(401, "unauthenticated", "No identity that can be verified"),
    errors.Forbidden: Kind(403, "forbidden", "The identity lacks the right"),
    errors.TenantMismatch: Kind(403, "tenant-mismatch", "The document names another tenant than the token"),
    errors.TenantSuspended: Kind(403, "tenant-suspended", "The tenant may not do this now"),
    errors.NotFound: Kind(404, "not-found", "There is no such thing"),
    errors.AlreadyExists: Kind(409, "already-exists", "A thing of this name exists"),
    errors.WrongState: Kind(409, "wrong-state", "The thing is not in the state that this needs"),
    errors.Outdated: Kind(412, "outdated", "The thing has changed since it was read"),
    errors.NotDone: Kind(503, "not-done", "Nothing happened; try again"),
    errors.RateLimited: Kind(429, "rate-limited", "Over the rate limit"),
    errors.QueueFull: Kind(503, "queue-full", "The event queue is full"),
    errors.QueueUnavailable: Kind(503, "queue-unavailable", "The event queue can't be reached"),
    errors.LedgerUnavailable: Kind(503, "ledger-unavailable", "The ledger can't be reached"),
    errors.KeyUnavailable: Kind(503, "key-unavailable", "A key can't be had now"),
    errors.DirectoryUnavailable: Kind(503, "directory-unavailable", "The tenants can't be read now"),
    errors.OutcomeUnknown: Kind(503, "outcome-unknown", "It may have happened; repeat the identical request"),
    errors.SendUnknown: Kind(503, "outcome-unknown", "It may have happened; repeat the identical request"),
    errors.AppendUnknown: Kind(503, "outcome-unknown", "It may have happened; repeat the identical request"),
    errors.Broken: Kind(500, "internal-error", "Something broke on our side"),
    errors.SealBroken: Kind(500, "internal-error", "Something broke on our side"),
    errors.InvariantBroken: Kind(500, "internal-error", "Something broke on our side"),
}

_HTTP_KINDS: Final[Mapping[int, Kind]] = {
    kind.status: kind
    for kind in (
        Kind(400, "bad-request", "The request can't be read"),
        KINDS[errors.NotFound],
        Kind(405, "method-not-allowed", "This can't be done here"),
        Kind(406, "not-acceptable", "The Accept header allows nothing that this can answer"),
        KINDS[errors.TooLarge],
        Kind(415, "unsupported-media-type", "The body's type or encoding isn't understood"),
        Kind(422, "invalid-request", "The body or a parameter breaks its contract"),
    )
}
"""What the HTTP layer itself refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error as a client sees it. `errors_total` is set where `errors` was capped."""

    kind: Kind
    detail: str = ""
    errors: Sequence[Mapping[str, str]] = ()
    errors_total: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self, instance: str) -> dict[str, Any]:
        """The problem document; `instance` is the path of the request."""
        document: dict[str, Any] = {
            "type": TYPE_PREFIX + self.kind.slug,
            "title": self.kind.title,
            "status": self.kind.status,
        }
        if self.detail:
            document["detail"] = self.detail
        document["instance"] = quote(instance, safe=_PATH_SAFE)
        if self.errors:
            document["errors"] = list(self.errors)
        if self.errors_total is not None:
            document["errors_total"] = self.errors_total
        trace = current_trace()
        if trace is not None:
            document["trace_id"] = trace.trace_id
        return document

    def response(self, instance: str) -> Response:
        """The problem as an answer, always `application/problem+json`."""
        return Response(
            orjson.dumps(self.document(instance)),
            status_code=self.kind.status,
            headers=dict(self.headers),
            media_type=MEDIA_TYPE,
        )


def problem_of(exc: Exception) -> Problem:
    """
    What `exc` is to the client. What isn't known here is a 500 that tells nothing but its trace id.

    An error may carry `headers` of its own (name to value); they go out with the answer.
    """
    if isinstance(exc, errors.AuditLogError):
        return _of_house(exc)
    if isinstance(exc, RequestValidationError):
        violations = [_violation(error) for error in exc.errors()]
        detail = violations[0]["detail"] if violations else ""
        return Problem(kind=_http_kind(422), detail=detail, errors=violations)
    if isinstance(exc, HTTPException):
        phrase = HTTPStatus(exc.status_code).phrase
        detail = exc.detail if exc.detail != phrase else ""
        return Problem(kind=_http_kind(exc.status_code), detail=detail, headers=exc.headers or {})
    return Problem(kind=KINDS[errors.Broken])


def _of_house(exc: errors.AuditLogError) -> Problem:
    kind = next(KINDS[cls] for cls in type(exc).__mro__ if cls in KINDS)
    if kind.status == 500:
        return Problem(kind=kind)
    violations: Sequence[Mapping[str, str]] = ()
    total: int | None = None
    headers: dict[str, str] = dict(getattr(exc, "headers", {}))
    if isinstance(exc, errors.InvalidEntry):
        violations = [{"pointer": v.pointer, "detail": v.detail, "code": v.code} for v in exc.violations]
        total = exc.total if exc.total > len(violations) else None
    elif isinstance(exc, errors.InvalidParameter):
        violations = [{"parameter": exc.parameter, "detail": exc.detail, "code": "invalid_parameter"}]
    elif isinstance(exc, errors.NotDone):
        headers["Retry-After"] = retry_after(exc.retry_after_s)
    elif isinstance(exc, errors.OutcomeUnknown):
        headers["Retry-After"] = "1"
    elif isinstance(exc, errors.Unauthenticated):
        headers["WWW-Authenticate"] = f'{CHALLENGE}, error="invalid_token"' if exc.detail else CHALLENGE
    return Problem(kind=kind, detail=exc.detail, errors=violations, errors_total=total, headers=headers)


def retry_after(seconds: float) -> str:
    """`seconds` as a value of Retry-After: whole seconds, never too few, at least 1."""
    return str(max(1, math.ceil(seconds)))


def _http_kind(status: int) -> Kind:
    return _HTTP_KINDS.get(status) or Kind(status, "http-error", HTTPStatus(status).phrase)


def _violation(error: Mapping[str, Any]) -> dict[str, str]:
    place, *path = error["loc"]
    code = str(error["type"])
    if place == "body":
        # A syntax error has its offset where a path would stand; it is an error of the whole document.
        pointer = "" if code == "json_invalid" else "".join(f"/{_escaped(step)}" for step in path)
        return {"pointer": pointer, "detail": str(error["msg"]), "code": code}
    return {"parameter": ".".join(str(step) for step in path), "detail": str(error["msg"]), "code": code}


def _escaped(step: object) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")
