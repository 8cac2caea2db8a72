"""Errors as a person reads them: what is known is a line, what isn't stays a fault of ours."""

from __future__ import annotations

import asyncpg
import httpx
import pytest

from audit_allinone.client import answer, problem_text
from audit_allinone.failures import Failure, explained
from audit_contracts.errors import QueueUnavailable

REQUEST = httpx.Request("GET", "http://test/api/v1/logs")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Failure("so it is"), "so it is"),
        (QueueUnavailable("the queue is away"), "the queue is away"),
        (QueueUnavailable(), "QueueUnavailable"),
        (asyncpg.InvalidPasswordError("no"), "the database: no"),
        (httpx.ConnectTimeout(""), "the server can't be reached: ConnectTimeout"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
        (ConnectionResetError("gone"), "gone"),
        (ValueError("a fault"), None),
        (ExceptionGroup("", [Failure("twice"), Failure("twice"), Failure("once")]), "twice\nonce"),
        (ExceptionGroup("", [Failure("known"), ValueError("a fault")]), None),
    ],
)
def test_known_errors_are_explained(error: Exception, text: str | None) -> None:
    assert explained(error) == text


def test_many_faults_are_cut_and_counted() -> None:
    errors = [{"pointer": f"/{number}", "detail": "bad", "code": "x"} for number in range(12)]
    problem = {"title": "No", "detail": "bad", "errors": errors, "errors_total": 500}
    text = problem_text(httpx.Response(422, json=problem, request=REQUEST))
    assert text.splitlines()[0] == "No"
    assert text.splitlines()[1:] == [*(f"  /{number}: bad" for number in range(10)), "  … and 490 more"]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}"])
def test_what_is_no_problem_of_ours_is_told_by_its_status(body: bytes) -> None:
    text = problem_text(httpx.Response(502, content=body, request=REQUEST))
    assert text == "http://test/api/v1/logs answers 502 Bad Gateway"


def test_an_answer_that_is_no_json_is_not_ours() -> None:
    with pytest.raises(Failure, match="not as auditlog does"):
        answer(httpx.Response(200, content=b"<html>", request=REQUEST))
