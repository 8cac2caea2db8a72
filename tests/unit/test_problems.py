"""Every error of the house has its problem, and none says more than it should."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from audit_contracts import errors
from audit_kit.problems import KINDS, TYPE_PREFIX, problem_of


def tree(root: type[errors.AuditLogError] = errors.AuditLogError) -> Iterator[type[errors.AuditLogError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def test_the_table_has_each_class_of_the_tree_and_no_other() -> None:
    assert set(KINDS) == set(tree())


def test_what_a_class_tells_its_caller_shows_in_its_status() -> None:
    for cls, kind in KINDS.items():
        if issubclass(cls, errors.Refused):
            assert 400 <= kind.status < 500, cls
        elif issubclass(cls, errors.RateLimited):
            assert kind.status == 429
        elif issubclass(cls, errors.NotDone | errors.OutcomeUnknown):
            assert kind.status == 503, cls
        else:
            assert kind.status == 500, cls


def test_not_done_and_unknown_are_never_one_type() -> None:
    slugs = {
        root: {kind.slug for cls, kind in KINDS.items() if issubclass(cls, root)}
        for root in (errors.NotDone, errors.OutcomeUnknown)
    }
    assert slugs[errors.NotDone].isdisjoint(slugs[errors.OutcomeUnknown])


def test_a_class_made_elsewhere_is_what_its_parent_is() -> None:
    class Special(errors.QueueFull):
        pass

    assert problem_of(Special("full")).kind == KINDS[errors.QueueFull]


@pytest.mark.parametrize("cls", [errors.Broken, errors.SealBroken, errors.InvariantBroken, errors.AuditLogError])
def test_what_is_broken_gives_no_details(cls: type[errors.AuditLogError]) -> None:
    problem = problem_of(cls("row 17 of acme"))
    assert (problem.kind.slug, problem.detail) == ("internal-error", "")


@pytest.mark.parametrize(("wait_s", "header"), [(0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (30, "30")])
def test_retry_after_is_never_too_early(wait_s: float, header: str) -> None:
    problem = problem_of(errors.LedgerUnavailable("down", retry_after_s=wait_s))
    assert problem.headers["Retry-After"] == header


def test_an_unknown_outcome_asks_for_the_identical_request() -> None:
    problem = problem_of(errors.SendUnknown("who knows"))
    assert (problem.kind.slug, problem.headers["Retry-After"]) == ("outcome-unknown", "1")


def test_the_challenge_says_whether_a_credential_was_there() -> None:
    assert problem_of(errors.Unauthenticated()).headers["WWW-Authenticate"] == 'Bearer realm="auditlog"'
    refused = problem_of(errors.Unauthenticated("expired")).headers["WWW-Authenticate"]
    assert refused == 'Bearer realm="auditlog", error="invalid_token"'


def test_a_wrong_parameter_is_named() -> None:
    (error,) = problem_of(errors.InvalidParameter("limit", "at most 1,000")).errors
    assert error == {"parameter": "limit", "detail": "at most 1,000", "code": "invalid_parameter"}


@pytest.mark.parametrize(
    ("status", "slug"),
    [(400, "bad-request"), (404, "not-found"), (405, "method-not-allowed"), (413, "too-large"), (418, "http-error")],
)
def test_what_http_itself_refuses_has_its_type(status: int, slug: str) -> None:
    document = problem_of(HTTPException(status)).document("/here")
    assert (document["type"], document["status"]) == (TYPE_PREFIX + slug, status)
    assert "detail" not in document
    assert problem_of(HTTPException(status, "why")).detail == "why"


def test_pointers_are_escaped_as_rfc_6901_asks() -> None:
    error = {"loc": ("body", "a/b", "c~d", 0), "msg": "wrong", "type": "odd"}
    (violation,) = problem_of(RequestValidationError([error])).errors
    assert violation["pointer"] == "/a~1b/c~0d/0"


def test_a_request_without_errors_of_its_own_is_still_a_problem() -> None:
    assert problem_of(RequestValidationError([])).kind.status == 422


def test_outside_of_a_request_a_problem_has_no_trace() -> None:
    assert "trace_id" not in problem_of(ValueError("?")).document("/")
