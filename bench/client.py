"""
A lean HTTP/1.1 client on raw sockets: keep-alive connections, one request at a time on each.

A general client costs more than the server that it is to measure. This one knows no more of HTTP than our server
speaks: a status line, headers with a content-length, a body.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final, cast

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_END: Final = b"\r\n\r\n"


class BadAnswer(Exception):
    """The server answered something else than it should, or hung up."""


class Connection(asyncio.Protocol):
    """One connection. `on_answer` is told each answer: the connection, which is free again, status and body."""

    def __init__(
        self, on_answer: Callable[[Connection, int, bytes], None], on_lost: Callable[[BaseException], None]
    ) -> None:
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._received = bytearray()
        self._body_at = 0
        self._length = -1
        self._closing = False
        self._transport: asyncio.Transport | None = None
        self.tag = 0
        """The sender's own: which request is on its way."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is none by class

    def send(self, request: bytes) -> None:
        """Send the next request."""
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        received = self._received
        received += data
        if self._length < 0:
            end = received.find(_END)
            if end < 0:
                return
            found = _LENGTH.search(received, 0, end + 2)
            if found is None:
                self._on_lost(BadAnswer("an answer without a content-length"))
                return
            self._body_at, self._length = end + len(_END), int(found[1])
        if len(received) < self._body_at + self._length:
            return
        status, body = int(received[9:12]), bytes(received[self._body_at :])
        received.clear()
        self._length = -1
        self._on_answer(self, status, body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        if not self._closing:
            self._on_lost(exc or BadAnswer("the server hung up"))

    def close(self) -> None:
        """Hang up."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()


async def connect(
    host: str,
    port: int,
    on_answer: Callable[[Connection, int, bytes], None],
    on_lost: Callable[[BaseException], None],
) -> Connection:
    """Open a connection."""
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(on_answer, on_lost), host, port
    )
    return connection


def request(method: str, path: str, token: str, *, body: bytes = b"", content_type: str = "application/json") -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\naccept: */*\r\n"
    if body:
        head += f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body
