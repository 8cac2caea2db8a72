"""Admin: the control data of all tenants, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from audit_admin.api_keys import api_keys_router
from audit_admin.control import Control
from audit_admin.key_rotations import key_rotations_router
from audit_admin.mock_login import mock_login_router
from audit_admin.outbox_relay import OutboxRelay
from audit_admin.tenants import tenants_router
from audit_contracts.errors import AuditLogError
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.event_queue import EventQueue
from audit_contracts.ports.tenant_directory import TenantRegistry
from audit_contracts.principal import OPERATOR_TENANT
from audit_kit.access import AccessRecorder
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.changes import ChangeRecorder
from audit_kit.directory import CachedDirectory
from audit_kit.keyring import Keyring
from audit_kit.part import Part, ReadyCheck


class DevelopmentRefused(AuditLogError):
    """The database isn't one that `auditlog up` made for development, so nobody is given a token for it."""


def admin_part(
    *,
    registry: TenantRegistry,
    directory: CachedDirectory,
    keyring: Keyring,
    queue: EventQueue,
    access: AccessRecorder,
    clock: Clock,
    dev_issuer: DevIssuer | None = None,
) -> Part:
    """
    The part `admin`.

    Args:
        directory: the one that the gate of this process reads, so that changes made here are felt at once.
        queue: where the records of changes go, once they are committed.
        dev_issuer: development mode: `POST /mock-login` gives its tokens to whoever asks. The part then opens only on a
            database that is marked for development (DevelopmentRefused otherwise).
    """
    changes = ChangeRecorder(
        keyring=keyring, directory=directory, clock=clock, message_bytes_max=queue.message_bytes_max
    )
    relay = OutboxRelay(registry=registry, queue=queue)
    control = Control(registry=registry, directory=directory, access=access, changes=changes, relay=relay, clock=clock)
    routers = [tenants_router(control), api_keys_router(control), key_rotations_router(control)]
    if dev_issuer is not None:
        routers.append(mock_login_router(directory=registry, issuer=dev_issuer, clock=clock))

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        if dev_issuer is not None and not await registry.is_development():
            raise DevelopmentRefused("development mode needs a database that `auditlog up` made itself")
        yield

    async def check() -> None:
        await registry.tenants(after=OPERATOR_TENANT, limit=1)

    return Part(
        name="admin",
        routers=routers,
        workers=[access.worker(), relay.worker()],
        ready_checks=[ReadyCheck(name="directory", check=check)],
        opened=opened,
    )
