"""POST /api/v1/logs and /api/v1/logs/bulk, on plain Starlette: an answer of 201 means durable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from audit_contracts.errors import (
    AuditLogError,
    InvalidEntry,
    InvalidParameter,
    NotDone,
    OutcomeUnknown,
    RateLimited,
    TooLarge,
    Violation,
)
from audit_contracts.event import Event
from audit_contracts.masking_policy import MaskingPolicy
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.tenant_directory import Tenant
from audit_contracts.principal import Principal, TenantId
from audit_contracts.strict_json import split_array, split_lines
from audit_ingest.event_ids import EventIds, RequestKey
from audit_ingest.remembered_keys import RememberedKeys
from audit_ingest.request import EntryReader
from audit_kit.batcher import Batcher
from audit_kit.bodies import read_body
from audit_kit.event_making import EventMaker, masker_of
from audit_kit.gate import principal_of, tenant_of
from audit_kit.keyring import Keyring
from audit_kit.metrics import INGEST_ACCEPTED_EVENTS, INGEST_MASKED_VALUES, INGEST_REFUSED_EVENTS
from audit_kit.rate_limits import RateLimits
from audit_kit.receipts import receipt
from audit_kit.tracing import current_trace

JSON: Final = "application/json"
NDJSON: Final = ("application/x-ndjson", "application/jsonl")
SINGLE_PATH: Final = "/api/v1/logs"
BULK_PATH: Final = "/api/v1/logs/bulk"
ON_ERROR: Final = "on_error"
SKIP: Final = "skip"
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
ERRORS_MAX: Final = 100
"""Faults of a bulk that are told one by one; `errors_total` counts them all."""
MAKERS_MAX: Final = 10_000
"""Principals whose maker is kept ready, at about a kilobyte each."""

_BODY_THREAD_BYTES: Final = 256 * 1024
"""Digesting so much takes longer than handing it to a thread."""
_TURN_S: Final = 0.002
"""How long a bulk may keep the loop to itself, so that single posts beside it wait little longer."""
_TURN_ENTRIES: Final = 16

_INVALID: Final = INGEST_REFUSED_EVENTS.labels("invalid")
_REASONS: Final = (
    (InvalidEntry, _INVALID),
    (TooLarge, INGEST_REFUSED_EVENTS.labels("too_large")),
    (RateLimited, INGEST_REFUSED_EVENTS.labels("rate_limited")),
    (NotDone, INGEST_REFUSED_EVENTS.labels("unavailable")),
    (OutcomeUnknown, INGEST_REFUSED_EVENTS.labels("unavailable")),
)

_encode: Final = msgspec.json.Encoder().encode


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may be, at most."""

    entry_bytes_max: int
    bulk_entries_max: int
    bulk_bytes_max: int
    depth_max: int


class AcceptedBulk(msgspec.Struct, kw_only=True, omit_defaults=True):
    """
    What was taken of a bulk. `ids` are those of the entries taken, in the order sent.

    With `on_error=skip` `refused` lists the indexes of all entries left out; `errors` says why, at most 100 reasons of
    the `errors_total`.
    """

    accepted: int
    ids: list[str]
    receipt: str
    refused: list[int] = []
    errors: list[Violation] = []
    errors_total: int = 0


class IngestRoutes:
    """The handlers of ingest."""

    def __init__(
        self, *, batcher: Batcher, keyring: Keyring, rate_limits: RateLimits, clock: Clock, bounds: Bounds
    ) -> None:
        self._batcher = batcher
        self._keyring = keyring
        self._rate_limits = rate_limits
        self._clock = clock
        self._bounds = bounds
        self._remembered_keys = RememberedKeys(clock=clock)
        self._makers: dict[tuple[TenantId, str], tuple[MaskingPolicy, EventMaker]] = {}

    async def post_log(self, request: Request) -> Response:
        """Take one entry."""
        principal, tenant = principal_of(request), tenant_of(request)
        _no_parameters_but(request)
        with _counting_refusals(1):
            headers = await self._rate_limits.take(tenant, principal, 1)
            body = await read_body(request, bytes_max=self._bounds.entry_bytes_max)
            key = await _request_key(request, body)
            made = (await self._reader(request, principal, tenant, key)).read(body, 0)
            receipt_key = await self._keyring.receipt_key(principal.tenant)
            if key is not None:
                self._remembered_keys.use(principal, key)
            placements = await self._batcher.put(principal.tenant, [made.event])
        INGEST_ACCEPTED_EVENTS.inc()
        if made.masked:
            INGEST_MASKED_VALUES.inc(len(made.masked))
        answer = _encode(made.kept(principal.tenant))
        # Base64 needs no escaping, and the object has fields before this one.
        signed = receipt(principal.tenant, placements, receipt_key).encode()
        return Response(
            b'%b,"receipt":"%b"}' % (answer[:-1], signed),
            status_code=201,
            headers={"Location": f"{SINGLE_PATH}/{made.event.id}", **headers},
            media_type=JSON,
        )

    async def post_bulk(self, request: Request) -> Response:
        """Take many entries, or none if one is invalid; with `on_error=skip` all that are not."""
        principal, tenant = principal_of(request), tenant_of(request)
        skips = _no_parameters_but(request, ON_ERROR) == SKIP
        body = await read_body(request, bytes_max=self._bounds.bulk_bytes_max)
        items = _split(request, body)
        with _counting_refusals(len(items)):
            if len(items) > self._bounds.bulk_entries_max:
                raise TooLarge(f"more than {self._bounds.bulk_entries_max} entries in one request")
            headers = await self._rate_limits.take(tenant, principal, len(items))
            key = await _request_key(request, body)
            taken = _Taken(await self._reader(request, principal, tenant, key))
            await taken.read(items)
            if taken.errors and not (skips and taken.events):
                raise InvalidEntry(taken.errors, total=taken.errors_total)
            receipt_key = await self._keyring.receipt_key(principal.tenant)
            if key is not None:
                self._remembered_keys.use(principal, key)
            placements = await self._batcher.put(principal.tenant, taken.events)
        INGEST_ACCEPTED_EVENTS.inc(len(taken.events))
        INGEST_MASKED_VALUES.inc(taken.masked_values)
        _INVALID.inc(len(taken.refused))
        answer = AcceptedBulk(
            accepted=len(taken.events),
            ids=[str(event.id) for event in taken.events],
            receipt=receipt(principal.tenant, placements, receipt_key),
            refused=taken.refused,
            errors=taken.errors,
            errors_total=taken.errors_total,
        )
        return Response(_encode(answer), status_code=201, headers=dict(headers), media_type=JSON)

    async def _reader(
        self, request: Request, principal: Principal, tenant: Tenant, key: RequestKey | None
    ) -> EntryReader:
        now_us = self._clock.now_us()
        return EntryReader(
            principal=principal,
            maker=await self._maker(principal, tenant),
            ids=EventIds(
                principal=principal,
                digest_key=await self._keyring.digest_key(principal.tenant),
                request_key=key,
                received_at_us=now_us,
            ),
            received_at_us=now_us,
            trace_id=_trace_id_sent(request),
            entry_bytes_max=self._bounds.entry_bytes_max,
            depth_max=self._bounds.depth_max,
        )

    async def _maker(self, principal: Principal, tenant: Tenant) -> EventMaker:
        """The principal's maker, made anew where the tenant's policy is another one."""
        at = (principal.tenant, principal.name)
        made = self._makers.get(at)
        if made is None or made[0] is not tenant.masking:
            if len(self._makers) >= MAKERS_MAX:
                self._makers.clear()
            masker = await masker_of(tenant, self._keyring)
            made = self._makers[at] = (tenant.masking, EventMaker(masker=masker, submitted_by=principal.name))
        return made[1]


class _Taken:
    """What is taken of a bulk, and what is refused of it."""

    def __init__(self, reader: EntryReader) -> None:
        self._reader = reader
        self.events: list[Event] = []
        self.masked_values = 0
        self.refused: list[int] = []
        self.errors: list[Violation] = []
        self.errors_total = 0

    async def read(self, items: Sequence[bytes]) -> None:
        """Read all of them, letting others have their turn."""
        turn_ends = time.perf_counter() + _TURN_S
        for index, raw in enumerate(items):
            if not index % _TURN_ENTRIES and time.perf_counter() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.perf_counter() + _TURN_S
            try:
                made = self._reader.read(raw, index)
            except InvalidEntry as exc:
                self._refuse(index, exc)
            else:
                self.events.append(made.event)
                self.masked_values += len(made.masked)

    def _refuse(self, index: int, exc: InvalidEntry) -> None:
        self.refused.append(index)
        self.errors_total += exc.total
        for violation in exc.violations[: ERRORS_MAX - len(self.errors)]:
            self.errors.append(Violation(f"/{index}{violation.pointer}", violation.detail, violation.code))


def _split(request: Request, body: bytes) -> list[bytes]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    items = split_lines(body) if media_type in NDJSON else split_array(body)
    if not items:
        raise InvalidEntry([Violation("", "holds no entry", "empty")])
    return items


def _no_parameters_but(request: Request, known: str | None = None) -> str | None:
    """
    The value of the one query parameter that there may be.

    Raises:
        InvalidParameter: there is another, it stands twice, or its value is unknown.
    """
    if not request.scope["query_string"]:
        return None
    value = None
    for name, text in request.query_params.multi_items():
        if name != known:
            raise InvalidParameter(name[:64], "there is no such parameter")
        if value is not None or text != SKIP:
            raise InvalidParameter(name, f"is {SKIP}, once, or left out")
        value = text
    return value


async def _request_key(request: Request, body: bytes) -> RequestKey | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1:
        raise InvalidParameter("Idempotency-Key", "stands twice")
    (key,) = keys
    if not 0 < len(key) <= IDEMPOTENCY_KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
        detail = f"is 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters"
        raise InvalidParameter("Idempotency-Key", detail)
    digested = await asyncio.to_thread(sha256, body) if len(body) > _BODY_THREAD_BYTES else sha256(body)
    return RequestKey(key, digested.digest())


def _trace_id_sent(request: Request) -> str | None:
    """The trace that the client said this belongs to; one that was begun here says nothing about the entry."""
    trace, sent = current_trace(), request.headers.get("traceparent")
    return trace.trace_id if trace is not None and sent is not None and trace.trace_id in sent else None


@contextmanager
def _counting_refusals(events: int) -> Iterator[None]:
    try:
        yield
    except AuditLogError as exc:
        for kind, counter in _REASONS:
            if isinstance(exc, kind):
                counter.inc(events)
                break
        raise
