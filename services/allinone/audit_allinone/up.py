"""
Run everything on this machine: database, ingest, projector, query, admin, on one port.

The first start makes a database, its keys and a demo tenant to look at; every other one continues where the last one
ended, however that was. Once it is ready it prints where it is and commands to try, and nothing before.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from audit_allinone import preparing
from audit_allinone.data_folder import DataFolder, default_folder, kept_logins
from audit_allinone.embedded_postgres import EmbeddedPostgres, embedded_postgres
from audit_allinone.failures import Failure
from audit_allinone.steps import step
from audit_allinone.urls import url_as
from audit_allinone.visitors import visitors
from audit_allinone.welcome import Welcome
from audit_allinone.wiring import LOGINS, Places, wired
from audit_backends.schema import migrations
from audit_contracts.ports.clock import Clock
from audit_kit.auth.authenticator import opened_authenticator
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.clock import SystemClock
from audit_kit.part import Part, Worker
from audit_kit.running import Address, listening, running
from audit_kit.settings import Settings

PARTS: Final = tuple(LOGINS)
LOGIN_NAMES: Final = tuple(LOGINS.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A migrated database: as its owner, as each login, and the server where it is our own."""

    owner_url: str = field(repr=False)
    urls: Mapping[str, str] = field(repr=False)
    server: EmbeddedPostgres | None


async def up(settings: Settings, *, address: Address, demo: bool | None) -> None:
    """
    Run until SIGTERM or SIGINT, which also end a start that isn't over yet.

    Args:
        demo: whether there is a demo tenant; None: where the database is the embedded one.
    """
    with _ended_by_signals():
        _check_free(address)
        folder = DataFolder(settings.data_dir or default_folder())
        folder.make()
        clock = SystemClock()
        async with _database(settings, folder) as database:
            with_demo = database.server is not None if demo is None else demo
            await _run(settings, folder, database, address, with_demo=with_demo, clock=clock)


def _check_free(address: Address) -> None:
    """
    Look whether the port is free before anything is started; `running`, which takes it, has the last word.

    Raises:
        AddressUnavailable: it isn't.
    """
    with listening(address):
        pass


@asynccontextmanager
async def _database(settings: Settings, folder: DataFolder) -> AsyncIterator[Database]:
    async with AsyncExitStack() as stack:
        server = None
        if settings.database_url is None:
            with step("starting PostgreSQL"):
                server = await stack.enter_async_context(embedded_postgres(folder.postgres))
            owner_url = server.owner_url
        else:
            owner_url = settings.database_url.get_secret_value()
        with step("bringing the database to this version's schema"):
            urls = await _migrated(settings, folder, owner_url, is_own=server is not None)
            if server is not None:
                await preparing.take_back_deliveries(owner_url)
        yield Database(owner_url=owner_url, urls=urls, server=server)


async def _migrated(settings: Settings, folder: DataFolder, owner_url: str, *, is_own: bool) -> Mapping[str, str]:
    """Migrate, and answer a URL for each login: the one that is set, else one with a password that we keep."""
    urls = {login: url for login in LOGIN_NAMES if (url := _set_url(settings, login))}
    if is_own and urls:
        variables = ", ".join(f"AUDITLOG_{login.upper()}_DATABASE_URL" for login in urls)
        raise Failure(f"{variables}: set AUDITLOG_DATABASE_URL as well, or none of them for a database of our own")
    unset = [login for login in LOGIN_NAMES if login not in urls]
    file = folder.logins(None if is_own else owner_url)
    if unset and not is_own and not file.exists() and not await preparing.missing_logins(owner_url) >= set(unset):
        variables = ", ".join(f"AUDITLOG_{login.upper()}_DATABASE_URL" for login in unset)
        raise Failure(
            "this database server has the parts' logins already, with passwords that are not known here: set "
            + variables
        )
    passwords = {login: password for login, password in kept_logins(file).items() if login in unset} if unset else {}
    await migrations.migrate(owner_url, passwords=passwords)
    return urls | {login: url_as(owner_url, f"auditlog_{login}", password) for login, password in passwords.items()}


def _set_url(settings: Settings, login: str) -> str | None:
    secret = getattr(settings, f"{login}_database_url")
    return None if secret is None else str(secret.get_secret_value())


async def _run(
    settings: Settings, folder: DataFolder, database: Database, address: Address, *, with_demo: bool, clock: Clock
) -> None:
    places = Places(
        databases=database.urls,
        key_store=settings.secret("key_store_url") if settings.key_store_url else folder.root_key.absolute().as_uri(),
        event_queue=settings.secret("event_queue_url") if settings.event_queue_url else None,
    )
    await preparing.make_root_key(database.owner_url, places.key_store)
    operator_key = await preparing.ensure_operator(database.owner_url, places.key_store, clock=clock)
    admins = await visitors(places, folder, operator_key=operator_key, with_demo=with_demo, clock=clock)
    dev_issuer = await _dev_issuer(folder, database, address)
    welcome = Welcome(folder=folder, visitors=admins, is_development=dev_issuer is not None)
    async with AsyncExitStack() as stack:
        with step("opening the parts"):
            opened = await stack.enter_async_context(
                wired(PARTS, places=places, settings=settings, clock=clock, dev_issuer=dev_issuer)
            )
            authenticator = await stack.enter_async_context(
                opened_authenticator(
                    issuers=settings.issuers,
                    own=[] if dev_issuer is None else [dev_issuer.trusted(clock)],
                    directory=opened.directory,
                    clock=clock,
                )
            )
        await running(
            [*opened.parts, _beside(database.server, welcome)],
            authenticator=authenticator,
            directory=opened.directory,
            address=address,
            on_refused=opened.on_refused,
            on_ready=welcome.listening,
        )


async def _dev_issuer(folder: DataFolder, database: Database, address: Address) -> DevIssuer | None:
    """Development mode, for a database that we made ourselves, where nobody but this machine can reach it."""
    if database.server is None or not is_loopback(address.host):
        return None
    # Marked at each start and not by who made it: a start can be killed right after making it.
    await preparing.mark_development(database.owner_url)
    return DevIssuer.load(folder.path)


def _beside(server: EmbeddedPostgres | None, welcome: Welcome) -> Part:
    """What runs beside the parts: the welcome, and the watch over the embedded server, whose end is ours."""
    workers = [Worker(name="welcome", run=welcome.run)]
    if server is not None:
        workers.append(Worker(name="postgres", run=lambda stop: _watch(server, stop)))
    return Part(name="up", workers=workers)


async def _watch(server: EmbeddedPostgres, stop: asyncio.Event) -> None:
    ends = [asyncio.ensure_future(server.wait()), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if ends[0].done():
            raise Failure(f"PostgreSQL ended with status {ends[0].result()}; start again to recover")
    finally:
        for end in ends:
            end.cancel()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Until `running` takes the signals over, they end the start, and that is no error."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - this runs in one
    signalled = False

    def end() -> None:
        nonlocal signalled
        signalled = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        yield
    except asyncio.CancelledError:
        if not signalled:
            raise
