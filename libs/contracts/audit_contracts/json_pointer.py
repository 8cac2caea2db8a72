"""JSON pointers (RFC 6901) to places in a document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

TOKEN_CHARS_MAX: Final = 128
"""Longer keys are cut in a pointer, so that what names a fault stays smaller than the fault."""


def pointer(tokens: Iterable[str | int]) -> str:
    """
    The pointer that leads through `tokens`, keys and indexes from the root; "" is the root itself.

    Lone surrogates, which no answer could carry, become U+FFFD.
    """
    return "".join(f"/{_escaped(token)}" for token in tokens)


def _escaped(token: str | int) -> str:
    if isinstance(token, int):
        return str(token)
    if len(token) > TOKEN_CHARS_MAX:
        token = f"{token[:TOKEN_CHARS_MAX]}…"
    token = token.replace("~", "~0").replace("/", "~1")
    return token if token.isascii() else token.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
