"""What `schemathesis run` is told of this API: how it writes NDJSON, and why valid requests may be refused."""

from __future__ import annotations

import re
from typing import Any, Final

import schemathesis

NDJSON: Final = ("application/x-ndjson", "application/jsonl")

UNSAYABLE: Final = frozenset(
    {
        "alias_conflict",  # a field and its alias, both sent
        "idempotency-conflict",  # a key that was used before, with another body
        "invalid-cursor",  # a next_token that is none
        "int_type",  # 1.0, which JSON Schema takes for an integer
        "ip_address",
        "masking_policy",  # rules that there aren't, expressions that are none
        "nul_character",
        "reserved",  # names that the product keeps for itself
        "scope_beyond_role",
        "expires_at_out_of_bounds",
        "too_early",
        "too_far_ahead",
        "too_large",  # bytes, where a schema counts characters
        "too_many_parameters",  # of all names together
    }
)
"""Codes of faults, or kinds of problems, of requests that a JSON schema lets pass."""

_IF_MATCH: Final = re.compile(r'\*|"[1-9][0-9]{0,17}"')


@schemathesis.serializer(*NDJSON)
def as_it_stands(ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    """Bodies of lines are published as strings."""
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")


@schemathesis.check
def valid_is_refused_only_for_what_a_schema_cannot_say(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Sharper than `positive_data_acceptance`, which knows statuses alone."""
    if case.meta is None or case.meta.generation.mode is not schemathesis.GenerationMode.POSITIVE:
        return
    if response.status_code not in (400, 422) or case.media_type in NDJSON:
        return
    if_match = case.headers.get("If-Match")
    if if_match is not None and _IF_MATCH.fullmatch(if_match) is None:
        return  # not valid, whatever its maker thought
    problem = response.json()
    reasons = {_reason(error) for error in problem.get("errors", ())} or {problem["type"].rpartition(":")[2]}
    assert reasons <= UNSAYABLE, f"a valid request was refused for {sorted(reasons - UNSAYABLE)}: {problem}"


def _reason(error: dict[str, str]) -> str:
    # The whole query string is named only where it holds too much.
    return "too_many_parameters" if error.get("parameter") == "query" else error["code"]
