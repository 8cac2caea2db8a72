"""Sends entries in bulk: a few requests at once, patient with a server that is busy or away, never twice in effect."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import httpx
import zstandard

from audit_allinone.client import answer, problem_text
from audit_allinone.failures import Failure
from audit_allinone.import_entries import Chunk, Item, Reject

IN_FLIGHT_MAX: Final = 4
PATIENCE_S: Final = 60.0
"""How long the server may take nothing at all before the import ends."""
PAUSE_S: Final = 0.25
PAUSE_MAX_S: Final = 5.0

_LATER: Final = frozenset({429, 500, 502, 503, 504})
_HEADERS: Final = {"Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}


class BulkSender:
    """
    Sends chunks to POST /logs/bulk.

    Every entry has an id of its own, so that a request whose fate is unknown is sent again.
    """

    def __init__(self, client: httpx.AsyncClient, *, on_sent: Callable[[int, Sequence[Reject]], None]) -> None:
        self._client = client
        self._on_sent = on_sent
        self._go_on_at = 0.0
        self._last_success = time.monotonic()

    async def send_all(self, chunks: Iterator[Chunk]) -> None:
        """
        Send all chunks, reading ahead no further than what is in flight.

        Raises:
            Failure: the server refuses who we are or what we do, or was away for too long; alone or in a group.
        """
        places = asyncio.Semaphore(IN_FLIGHT_MAX)
        async with asyncio.TaskGroup() as flights:
            while True:
                await places.acquire()
                chunk = await asyncio.to_thread(next, chunks, None)
                if chunk is None:
                    break
                flight = flights.create_task(self._send(chunk))
                flight.add_done_callback(lambda _: places.release())

    async def _send(self, chunk: Chunk) -> None:
        accepted, refused = await self._post(chunk.items) if chunk.items else (0, [])
        self._on_sent(accepted, [*chunk.rejects, *refused])

    async def _post(self, items: Sequence[Item]) -> tuple[int, list[Reject]]:
        response = await self._taken(items)
        if response.status_code == 413:
            if len(items) == 1:
                return 0, [Reject(items[0].line, problem_text(response))]
            middle = len(items) // 2
            first, second = await self._post(items[:middle]), await self._post(items[middle:])
            return first[0] + second[0], first[1] + second[1]
        if response.status_code == 422:
            reasons = _reasons(response.json().get("errors", ()))
            if not reasons:
                raise Failure(problem_text(response))
            # One good entry would have been taken, so none of them is.
            return 0, [_reject(item, reasons.get(index)) for index, item in enumerate(items)]
        told = answer(response)
        reasons = _reasons(told.get("errors", ()))
        return told["accepted"], [_reject(items[index], reasons.get(index)) for index in told.get("refused", ())]

    async def _taken(self, items: Sequence[Item]) -> httpx.Response:
        """The answer to a request, repeated until it is one to that request and not to the moment."""
        body = await asyncio.to_thread(_packed, items)
        pause_s = PAUSE_S
        while True:
            await self._wait_for_turn()
            try:
                response = await self._client.post(
                    "/logs/bulk", params={"on_error": "skip"}, content=body, headers=_HEADERS
                )
            except httpx.TransportError as exc:
                reason = f"the server can't be reached: {str(exc) or type(exc).__name__}"
                wait_s = pause_s
            else:
                if response.status_code not in _LATER:
                    self._last_success = time.monotonic()
                    return response
                if response.status_code == 429:
                    # Told to go slower by one that does take what is sent: that is no reason to give up.
                    self._last_success = time.monotonic()
                reason = problem_text(response)
                wait_s = _retry_after_s(response) or pause_s
            if time.monotonic() + wait_s - self._last_success > PATIENCE_S:
                raise Failure(f"{reason}\nNothing was taken for {PATIENCE_S:.0f} s. Import the file again to go on.")
            # All wait when one is told to, each a little differently so that they don't come back as one.
            self._go_on_at = max(self._go_on_at, time.monotonic() + wait_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _wait_for_turn(self) -> None:
        # Each looks again when it wakes: another may have been told to wait for longer.
        while (left_s := self._go_on_at - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s + random.uniform(0, 0.1))  # noqa: S311 - no secret


def _packed(items: Sequence[Item]) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(b"\n".join(item.entry for item in items))


def _reasons(errors: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """What is wrong, by index of the entry."""
    reasons: dict[int, list[str]] = {}
    for error in errors:
        _, index, *path = str(error.get("pointer", "")).split("/")
        if not index.isdecimal():
            return {}
        place = "".join(f"/{step}" for step in path)
        reasons.setdefault(int(index), []).append(f"{place or 'the entry'}: {error.get('detail')}")
    return {index: "; ".join(texts) for index, texts in reasons.items()}


def _reject(item: Item, reason: str | None) -> Reject:
    # The server tells the first hundred faults of a request.
    return Reject(item.line, reason or "refused, as too many others beside it for each to be told why")


def _retry_after_s(response: httpx.Response) -> float | None:
    told = response.headers.get("Retry-After", "")
    return float(told) if told.isdecimal() else None
