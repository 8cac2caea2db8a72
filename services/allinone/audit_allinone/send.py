"""Send one entry, and show it as it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from audit_allinone.client import answer, opened_client
from audit_allinone.failures import Failure
from audit_allinone.profile import Target
from audit_contracts import strict_json
from audit_contracts.errors import InvalidEntry

JSON_FIELDS: Final = ("before", "after", "metadata")
"""Fields whose options take JSON."""


def send(target: Target, fields: Mapping[str, str | None]) -> Any:
    """
    Post the entry of these fields, those that are None left out.

    Raises:
        Failure: an option's JSON is none, or the server refuses the entry.
    """
    entry = {name: _value(name, text) for name, text in fields.items() if text is not None}
    with opened_client(target) as client:
        return answer(client.post("/logs", json=entry, headers={"Idempotency-Key": str(uuid4())}))


def _value(name: str, text: str) -> Any:
    if name not in JSON_FIELDS:
        return text
    try:
        return strict_json.loads(text.encode())
    except InvalidEntry as exc:
        raise Failure(f"--{name} takes JSON: {exc.detail}", status=2) from exc
