"""
Run some of the parts, each on its own or together, against backends that others have started.

Nothing is made or migrated here: the schema is only checked. Health and metrics listen on a port of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from audit_allinone.wiring import LOGINS, Places, wired
from audit_kit.auth.authenticator import opened_authenticator
from audit_kit.clock import SystemClock
from audit_kit.running import Address, running
from audit_kit.settings import Settings


async def serve(names: Sequence[str], settings: Settings, *, address: Address, health: Address) -> None:
    """
    Serve the parts of these names until SIGTERM or SIGINT.

    Raises:
        SettingsError: a URL that one of them needs is not set.
        AuditLogError: a backend can't be opened, or the schema is too old.
        AddressUnavailable: an address is taken.
    """
    logins = sorted({LOGINS[name] for name in names})
    settings.require("key_store_url", *(f"{login}_database_url" for login in logins))
    places = Places(
        databases={login: getattr(settings, f"{login}_database_url").get_secret_value() for login in logins},
        key_store=settings.secret("key_store_url"),
        event_queue=settings.secret("event_queue_url") if settings.event_queue_url else None,
    )
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(wired(names, places=places, settings=settings, clock=clock))
        authenticator = await stack.enter_async_context(
            opened_authenticator(issuers=settings.issuers, directory=opened.directory, clock=clock)
        )
        await running(
            opened.parts,
            authenticator=authenticator,
            directory=opened.directory,
            address=address,
            health=health,
            on_refused=opened.on_refused,
        )
