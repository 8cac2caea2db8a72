"""uvicorn's HTTP protocol with bounds on what a client may send, and how slowly, before it is anybody."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from audit_kit.problems import MEDIA_TYPE, problem_of
from audit_kit.tracing import begin_trace

HEAD_BYTES_MAX: Final = 64 * 1024
"""Of a request line and its headers; what comes in one read with their end isn't counted. A token takes 1 to 8 KiB."""
HEAD_S_MAX: Final = 20.0
"""From the first byte of a request, or from the connection's beginning, to the end of the headers."""
REQUEST_S_MAX: Final = 120.0
"""From there to the end of the body: 16 MiB at 140 KB/s."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """
    One connection. Without bounds of its own the server would gather a header for as long as it comes, at a cost that
    grows with the square of its length, and wait for the rest of a request for ever.
    """

    _began_s: float | None = None
    """When the request began that isn't whole yet; a new connection owes one at once."""
    _in_head = True
    _head_bytes = 0
    _heads_read = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._began_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self._began_s is None:
            self._begin()
        heads_before = self._heads_read
        super().data_received(data)
        # A read that ended another request before is not all of this one's.
        if self._in_head and self._began_s is not None and self._heads_read == heads_before:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request line and headers are too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # The first one of a connection began with it.
        if not self._in_head or self._began_s is None:
            self._begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._heads_read += 1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._began_s = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, "this is not HTTP/1.1 as RFC 9112 has it")

    def close_if_late(self, now_s: float) -> None:
        """Close the connection if the request at hand should have been whole by now (on the loop's clock)."""
        if self._began_s is None or self.transport is None:
            return
        if now_s - self._began_s > (HEAD_S_MAX if self._in_head else REQUEST_S_MAX):
            self.transport.close()

    def _begin(self) -> None:
        self._began_s = self.loop.time()
        self._in_head = True
        self._head_bytes = 0

    def _unsupported_upgrade_warning(self) -> None:
        """Who asks for another protocol is answered in this one; that is no reason for a line in the log."""

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        begin_trace(None)
        response = problem_of(HTTPException(status, detail)).response("")
        body = bytes(response.body)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
