"""Request bodies for raw routes: whole, decompressed, and bounded at each step."""

from __future__ import annotations

import asyncio
import io
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import zstandard
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from audit_contracts.errors import TooLarge

PARTS_MAX: Final = 64
"""gzip members or zstd frames in one body. Each further one costs a copy of what follows it."""
ZSTD_WINDOW_BYTES_MAX: Final = 1 << 23
"""What RFC 8878 asks every decoder to support, and no more memory than that for one body."""
INLINE_BYTES_MAX: Final = 8 * 1024
"""Compressed bodies up to here are undone in place; larger ones in a thread, so that others needn't wait for them."""

_CHUNK_BYTES: Final = 256 * 1024


async def read_body(request: Request, *, bytes_max: int) -> bytes:
    """
    The request's body without its Content-Encoding (`gzip`, `zstd` or none).

    Neither what comes in nor what it unfolds to takes more than about `bytes_max` of memory.

    Raises:
        TooLarge: it is larger than `bytes_max`, as sent or unfolded.
        HTTPException: 415 for another encoding; 400 for a compressed stream that is broken or cut short.
        ClientDisconnect: the client left first.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    decode = None if encoding in {"", "identity"} else _decoder(encoding)
    raw = await _received(request, bytes_max)
    if decode is None:
        return raw
    if len(raw) <= INLINE_BYTES_MAX:
        return decode(raw, bytes_max)
    return await asyncio.to_thread(decode, raw, bytes_max)


async def _received(request: Request, bytes_max: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > bytes_max:
        raise _too_large(bytes_max)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > bytes_max:
            raise _too_large(bytes_max)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _decoder(encoding: str) -> Callable[[bytes, int], bytes]:
    decode = _DECODERS.get(encoding)
    if decode is None:
        supported = ", ".join(sorted({"gzip", "zstd", "identity"}))
        raise HTTPException(415, f"the Content-Encoding must be one of: {supported}", {"Accept-Encoding": supported})
    return decode


def _gunzip(raw: bytes, bytes_max: int) -> bytes:
    members: list[bytes] = []
    left = bytes_max
    for _ in range(PARTS_MAX):
        stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            member = stream.decompress(raw, left + 1)
        except zlib.error as exc:
            raise _broken() from exc
        left -= len(member)
        if left < 0:
            raise _too_large(bytes_max)
        members.append(member)
        if not stream.eof:
            raise _broken()
        raw = stream.unused_data
        if not raw:
            return b"".join(members)
    raise _broken()


def _unzstd(raw: bytes, bytes_max: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
    frames: list[bytes] = []
    try:
        # First how large it is, chunk by chunk; only then, within the bound, what it is. The reader is bounded and
        # takes a cut stream for a whole one; the object tells the two apart, and is bounded by nothing.
        size = 0
        with decompressor.stream_reader(io.BytesIO(raw), read_across_frames=True) as reader:
            while chunk := reader.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > bytes_max:
                    raise _too_large(bytes_max)
        for _ in range(PARTS_MAX):
            frame = decompressor.decompressobj()
            frames.append(frame.decompress(raw))
            if not frame.eof:
                raise _broken()
            raw = frame.unused_data
            if not raw:
                return b"".join(frames)
    except zstandard.ZstdError as exc:
        raise _broken() from exc
    raise _broken()


_DECODERS: Final[Mapping[str, Callable[[bytes, int], bytes]]] = {"gzip": _gunzip, "x-gzip": _gunzip, "zstd": _unzstd}


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the body is larger than {bytes_max} bytes", limit_bytes=bytes_max)


def _broken() -> HTTPException:
    return HTTPException(400, "the compressed body is broken or cut short")
