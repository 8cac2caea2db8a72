"""The HTTP client of the command's verbs: answers as JSON, problems as text for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx

from audit_allinone.failures import Failure
from audit_allinone.profile import Target

TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
ERRORS_SHOWN: Final = 10


@contextmanager
def opened_client(target: Target) -> Iterator[httpx.Client]:
    """A client of `target`'s API, which speaks as the target's token. Paths are relative to /api/v1."""
    with httpx.Client(**client_options(target)) as client:
        yield client


def client_options(target: Target) -> dict[str, Any]:
    """What every client of ours is made with, sync or async."""
    return {
        "base_url": f"{target.url}/api/v1",
        "headers": {"Authorization": f"Bearer {target.token}"},
        "timeout": TIMEOUT,
    }


def answer(response: httpx.Response) -> Any:
    """
    The JSON of an answer.

    Raises:
        Failure: it is a problem, or no answer of ours.
    """
    if response.is_success:
        try:
            return response.json()
        except ValueError as exc:
            raise Failure(f"{response.request.url} answers, but not as auditlog does") from exc
    raise Failure(problem_text(response))


def problem_text(response: httpx.Response) -> str:
    """What a refused request is told: title, detail, and where in the request it is wrong."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, Mapping) or "title" not in problem:
        return f"{response.request.url} answers {response.status_code} {response.reason_phrase}"
    errors = problem.get("errors") or ()
    # Where single faults are told, the detail is the first of them.
    told = ("title",) if errors else ("title", "detail")
    lines = [": ".join(str(problem[key]) for key in told if problem.get(key))]
    lines += [
        f"  {error.get('pointer') or error.get('parameter') or 'the whole'}: {error.get('detail')}"
        for error in errors[:ERRORS_SHOWN]
    ]
    total = problem.get("errors_total") or len(errors)
    if total > ERRORS_SHOWN:
        lines.append(f"  … and {total - ERRORS_SHOWN} more")
    return "\n".join(lines)
