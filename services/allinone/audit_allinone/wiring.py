"""Which ports each part is built from. Each reaches its backends under its own login, through its own pool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from audit_admin.part import admin_part
from audit_backends.opening import Backends, opened_backends
from audit_backends.rate_limiter.memory import MemoryRateLimiter
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.event_queue import EventQueue
from audit_contracts.ports.key_store import KeyStore
from audit_contracts.ports.tenant_directory import TenantDirectory
from audit_ingest.part import ingest
from audit_ingest.routes import Bounds
from audit_kit.access import AccessRecorder
from audit_kit.auth.attempts import OnRefused
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.batcher import Batcher
from audit_kit.directory import CachedDirectory
from audit_kit.keyring import Keyring
from audit_kit.part import Part
from audit_kit.rate_limits import RateLimits
from audit_kit.settings import Settings
from audit_projector.part import projector_ledger
from audit_query.part import query

LOGINS: Final[Mapping[str, str]] = {
    "ingest": "ingest",
    "projector-ledger": "projector",
    "query": "query",
    "admin": "admin",
}
"""The parts that `serve` knows, and the login that each has at the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where backends are. `databases` has a URL for each login; the queue is in the part's own unless told."""

    databases: Mapping[str, str] = field(repr=False)
    key_store: str
    event_queue: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """Parts with everything that they stand on open."""

    parts: Sequence[Part]
    directory: CachedDirectory
    on_refused: OnRefused | None


@asynccontextmanager
async def wired(
    names: Sequence[str], *, places: Places, settings: Settings, clock: Clock, dev_issuer: DevIssuer | None = None
) -> AsyncIterator[Wired]:
    """
    The parts of these names, each with its backends, closed with the block.

    Args:
        dev_issuer: turns development mode on.

    Raises:
        AuditLogError: a backend can't be opened, or isn't what it has to be.
    """
    async with AsyncExitStack() as stack:
        reached = [await _reach(stack, name, places, clock) for name in names]
        directory = CachedDirectory(reached[0].directory, clock=clock)
        building = _Building(directory, settings, clock, dev_issuer)
        built = [await _BUILDERS[reach.name](reach, building) for reach in reached]
        recorders = [access for _, access in built if access is not None]
        yield Wired(
            parts=[part for part, _ in built],
            directory=directory,
            on_refused=recorders[0].refused if recorders else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reach:
    """What every part reaches, under its own login."""

    name: str
    url: str
    backends: Backends
    directory: TenantDirectory
    key_store: KeyStore
    keyring: Keyring
    queue: EventQueue
    stack: AsyncExitStack

    def recorder(self, building: _Building) -> tuple[Batcher, AccessRecorder]:
        """A batcher of the part's own, and the recorder of what is done through it."""
        batcher = Batcher(queue=self.queue, keyring=self.keyring, clock=building.clock)
        self.stack.push_async_callback(batcher.close)
        access = AccessRecorder(
            batcher=batcher, keyring=self.keyring, directory=building.directory, clock=building.clock
        )
        return batcher, access


@dataclass(frozen=True, slots=True)
class _Building:
    """What the parts of one process share."""

    directory: CachedDirectory
    settings: Settings
    clock: Clock
    dev_issuer: DevIssuer | None


_Built = tuple[Part, AccessRecorder | None]


async def _reach(stack: AsyncExitStack, name: str, places: Places, clock: Clock) -> _Reach:
    backends = await stack.enter_async_context(opened_backends(name))
    url = places.databases[LOGINS[name]]
    directory = await backends.tenant_directory(url)
    key_store = await backends.key_store(places.key_store)
    return _Reach(
        name=name,
        url=url,
        backends=backends,
        directory=directory,
        key_store=key_store,
        keyring=Keyring(tenant_keys=directory, key_store=key_store, clock=clock),
        queue=await backends.event_queue(places.event_queue or url),
        stack=stack,
    )


async def _projector_ledger(reach: _Reach, building: _Building) -> _Built:
    ledger = await reach.backends.ledger(reach.url)
    part = projector_ledger(queue=reach.queue, ledger=ledger, keyring=reach.keyring, clock=building.clock)
    return part, None


async def _query(reach: _Reach, building: _Building) -> _Built:
    _, access = reach.recorder(building)
    reader = await reach.backends.ledger_reader(reach.url)
    return query(reader=reader, keyring=reach.keyring, access=access, clock=building.clock), access


async def _admin(reach: _Reach, building: _Building) -> _Built:
    _, access = reach.recorder(building)
    part = admin_part(
        registry=await reach.backends.tenant_registry(reach.url, reach.key_store),
        directory=building.directory,
        keyring=reach.keyring,
        queue=reach.queue,
        access=access,
        clock=building.clock,
        dev_issuer=building.dev_issuer,
    )
    return part, access


async def _ingest(reach: _Reach, building: _Building) -> _Built:
    settings = building.settings
    batcher, access = reach.recorder(building)
    part = ingest(
        batcher=batcher,
        keyring=reach.keyring,
        rate_limits=RateLimits(MemoryRateLimiter(clock=building.clock)),
        access=access,
        clock=building.clock,
        bounds=Bounds(
            entry_bytes_max=settings.entry_bytes_max,
            bulk_entries_max=settings.bulk_entries_max,
            bulk_bytes_max=settings.bulk_bytes_max,
            depth_max=settings.depth_max,
        ),
    )
    return part, access


_BUILDERS: Final[Mapping[str, Callable[[_Reach, _Building], Awaitable[_Built]]]] = {
    "ingest": _ingest,
    "projector-ledger": _projector_ledger,
    "query": _query,
    "admin": _admin,
}
