"""Any set of parts in one process: opened, served, drained and closed in that order."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

import structlog
import uvicorn

from audit_contracts.ports.tenant_directory import TenantDirectory
from audit_kit.auth.attempts import OnRefused
from audit_kit.auth.authenticator import Authenticator
from audit_kit.docs import docs_part
from audit_kit.gate import Gate
from audit_kit.health import health_part
from audit_kit.http_protocol import BoundedHttpProtocol
from audit_kit.part import Part, Worker

DRAIN_S: Final = 20
"""How long requests may go on after a signal; less than the 30 s after which Kubernetes kills."""
WORKERS_STOP_S: Final = 8.0
KEEP_ALIVE_S: Final = 75
"""Longer than the 60 s of a load balancer, so that it is never the server that closes first."""

_TICKS_BETWEEN_LOOKS: Final = 20
"""Between two looks for clients that are late: 2 s."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """As the start of an HTTP URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class AddressUnavailable(Exception):
    """Nothing can listen there: the port is in use, or not ours to take."""

    def __init__(self, address: Address, reason: str) -> None:
        super().__init__(f"can't listen on {address.host}:{address.port}: {reason}")
        self.address = address


class WorkerDied(Exception):
    """A worker ended before it was told to."""

    def __init__(self, worker: str) -> None:
        super().__init__(f"the worker {worker} ended by itself")
        self.worker = worker


@asynccontextmanager
async def opened(
    parts: Sequence[Part],
    *,
    authenticator: Authenticator,
    directory: TenantDirectory,
    on_refused: OnRefused | None = None,
) -> AsyncIterator[Gate]:
    """The ASGI application of `parts`, opened, without workers and without a server; what a test talks to."""
    async with AsyncExitStack() as stack:
        gate = Gate(parts, authenticator=authenticator, directory=directory, on_refused=on_refused)
        for part in parts:
            await stack.enter_async_context(part.opened())
        yield gate


async def running(
    parts: Sequence[Part],
    *,
    authenticator: Authenticator,
    directory: TenantDirectory,
    address: Address,
    health: Address | None = None,
    on_refused: OnRefused | None = None,
    on_ready: Callable[[Address], None] | None = None,
) -> None:
    """
    Serve `parts` until SIGTERM or SIGINT, then drain: requests first, then workers, then what the parts opened.

    Returns when all is done and closed; the caller then closes the ports that it gave to the parts.

    Args:
        address: where the API listens, the docs with it.
        health: where /livez, /readyz and /metrics listen; None puts them beside the API.
        on_ready: called once the server listens, with the address that it really has; never called if it can't.

    Raises:
        AddressUnavailable: an address can't be listened on; nothing was opened.
        UndeclaredPolicy, DuplicateRoute: the parts can't be served as they are.
        BaseExceptionGroup: workers died; it holds their errors. Requests were drained before.
    """
    draining = asyncio.Event()
    own = health_part(parts, is_draining=draining.is_set)
    served = [*parts, docs_part(parts), *([] if health else [own])]
    with listening(address) as api_socket, listening(health) if health else nullcontext() as health_socket:
        async with opened(served, authenticator=authenticator, directory=directory, on_refused=on_refused) as gate:
            api = _Server(gate, api_socket)
            beside = []
            if health_socket is not None:
                beside.append(_Server(Gate([own], authenticator=authenticator, directory=directory), health_socket))
            workers = [worker for part in parts for worker in part.workers]
            await _run(api, beside, workers, draining, on_ready)


async def _run(
    api: _Server,
    beside: Sequence[_Server],
    workers: Sequence[Worker],
    draining: asyncio.Event,
    on_ready: Callable[[Address], None] | None,
) -> None:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(_until_stopped(worker, stop), name=worker.name) for worker in workers]
    for task in tasks:
        # A worker that ends, however it does, ends the process; requests still get their answers.
        task.add_done_callback(lambda _: draining.set())
    try:
        async with asyncio.TaskGroup() as serving, _signals(draining, api):
            servers = [api, *beside]
            for server in servers:
                serving.create_task(server.serve_socket())
            for server in servers:
                await server.listening.wait()
            # What exists now lives as long as the process; the collector need never look at it again.
            gc.collect()
            gc.freeze()
            log.info("listening", url=api.address.url)
            if on_ready is not None:
                on_ready(api.address)
            await draining.wait()
            log.info("draining")
            await api.drain()
            stop.set()
            if tasks:
                await asyncio.wait(tasks, timeout=WORKERS_STOP_S)
            for server in beside:
                await server.drain()
    finally:
        await _end(tasks)
    died = [exc for task in tasks if not task.cancelled() and (exc := task.exception()) is not None]
    if died:
        raise BaseExceptionGroup("workers died", died)
    log.info("stopped")


async def _until_stopped(worker: Worker, stop: asyncio.Event) -> None:
    await worker.run(stop)
    if not stop.is_set():
        raise WorkerDied(worker.name)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if not task.done():
            log.warning("worker_cancelled", worker=task.get_name())
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Server(uvicorn.Server):
    """A uvicorn server on a socket that we bound, with signals left to us."""

    def __init__(self, app: Gate, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedHttpProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=DRAIN_S,
            )
        )
        host, port = listener.getsockname()[:2]
        self.address = Address(host, port)
        self.listening = asyncio.Event()
        self._listener = listener
        self._ended = asyncio.Event()

    async def serve_socket(self) -> None:
        """Serve until `drain` is called and done."""
        try:
            await self.serve(sockets=[self._listener])
        finally:
            self._ended.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def on_tick(self, counter: int) -> bool:
        """Called by the server ten times a second."""
        if counter % _TICKS_BETWEEN_LOOKS == 0:
            now_s = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedHttpProtocol):
                    connection.close_if_late(now_s)
        return await super().on_tick(counter)

    async def drain(self) -> None:
        """Stop listening, wait for the requests at hand for up to `DRAIN_S`."""
        self.should_exit = True
        await self._ended.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _signals(draining: asyncio.Event, api: _Server) -> AsyncIterator[None]:
    """SIGTERM and SIGINT begin the drain; a second one cuts it short."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if draining.is_set():
            api.force_exit = True
        draining.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    """
    A listening socket, taken before anything is opened so that a port in use costs nothing.

    Raises:
        AddressUnavailable: the port is in use, or not ours to take.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family, backlog=2048)
    except OSError as exc:
        # The library's own text repeats the address; the bare reason is what a person needs. A name that can't be
        # resolved has no errno of the system's.
        number = None if isinstance(exc, socket.gaierror) else exc.errno
        raise AddressUnavailable(address, str(exc) if number is None else os.strerror(number)) from exc
    with listener:
        yield listener
