"""What a request sends and what it takes: 415 and 406 by RFC 9110, cheap for the headers that clients really send."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from starlette.exceptions import HTTPException

# The answers are cached by header, so a header's size bounds the cache's. Browsers send about 150 bytes.
_HEADER_BYTES_MAX: Final = 1024


def check_content_type(content_type: bytes | None, consumes: tuple[str, ...]) -> None:
    """
    Let a request body of a type in `consumes` pass.

    Raises:
        HTTPException: 415, with `Accept` naming the types.
    """
    if content_type is None or len(content_type) > _HEADER_BYTES_MAX or not _matches(content_type, consumes):
        types = ", ".join(consumes)
        raise HTTPException(415, f"the body's Content-Type must be one of: {types}", {"Accept": types})


def check_accept(accept: bytes | None, produces: tuple[str, ...]) -> None:
    """
    Let a request pass that takes an answer of a type in `produces`.

    Raises:
        HTTPException: 406.
    """
    if accept is None or accept == b"*/*":
        return
    if len(accept) > _HEADER_BYTES_MAX or not _takes(accept, produces):
        raise HTTPException(406, f"this can be answered as: {', '.join(produces)}")


@lru_cache(maxsize=256)
def _matches(content_type: bytes, consumes: tuple[str, ...]) -> bool:
    return content_type.decode("latin-1").partition(";")[0].strip().lower() in consumes


@lru_cache(maxsize=256)
def _takes(accept: bytes, produces: tuple[str, ...]) -> bool:
    ranges = [_media_range(part) for part in accept.decode("latin-1").lower().split(",") if part.strip()]
    return not ranges or any(_quality(media_type, ranges) > 0 for media_type in produces)


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The weight that the most specific matching range gives to the type; 0 where none matches."""
    for candidate in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        weights = [weight for name, weight in ranges if name == candidate]
        if weights:
            return max(weights)
    return 0.0


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip() for piece in part.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return name, float(value)
            except ValueError:
                return name, 0.0
    return name, 1.0
