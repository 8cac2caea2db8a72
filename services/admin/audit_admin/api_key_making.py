"""How API keys come to be: with an id, a secret shown once, and never a right that their maker lacks."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from audit_contracts.errors import Forbidden, InvalidEntry, Violation
from audit_contracts.ids import uuid7
from audit_contracts.ports.clock import Clock
from audit_contracts.ports.tenant_directory import ApiKey
from audit_contracts.principal import EVERYTHING, DataScope, Permission, Principal, Role, TenantId, permissions_of
from audit_contracts.times import from_us
from audit_kit.auth.api_keys import new_api_key

LIFE_MAX: Final = timedelta(days=3_660)
FIRST_KEY_LIFE: Final = timedelta(days=7)
"""How long a tenant's first admin has to come and make keys of their own."""


class MadeKey(msgspec.Struct, frozen=True):
    """A key to be kept, and the text that its holder sends."""

    kept: ApiKey
    text: str

    def __repr__(self) -> str:
        return f"MadeKey({self.kept!r})"


def make_api_key(
    tenant: TenantId,
    *,
    name: str,
    role: Role,
    created_by: str,
    clock: Clock,
    scope: frozenset[Permission] | None = None,
    data_scope: DataScope = EVERYTHING,
    expires_at: datetime | None = None,
) -> MadeKey:
    """A fresh key; nothing of it is kept yet."""
    now_us = clock.now_us()
    presented = new_api_key(tenant, uuid7(now_us))
    kept = ApiKey(
        tenant=tenant,
        key_id=presented.key_id,
        name=name,
        role=role,
        scope=scope,
        data_scope=data_scope,
        secret_hash=presented.secret_hash,
        created_at=from_us(now_us),
        created_by=created_by,
        expires_at=expires_at,
        revoked_at=None,
        last_used_at=None,
    )
    return MadeKey(kept, presented.text)


def check_grant(principal: Principal, role: Role, scope: frozenset[Permission] | None, data_scope: DataScope) -> None:
    """
    Let a principal make a key of its own tenant with this role, scope and data scope.

    Raises:
        InvalidEntry: the scope names what the role doesn't hold.
        Forbidden: the key could do or see what the principal can't.
    """
    of_role = permissions_of(principal.tenant, role)
    granted = of_role if scope is None else scope
    if granted - of_role:
        detail = f"the role {role.value} doesn't hold {_listed(granted - of_role)}"
        raise InvalidEntry([Violation("/scope", detail, "scope_beyond_role")])
    if granted - principal.permissions:
        raise Forbidden(f"a key can't have rights that its maker lacks: {_listed(granted - principal.permissions)}")
    for dimension in DataScope.__struct_fields__:
        own, wanted = getattr(principal.data_scope, dimension), getattr(data_scope, dimension)
        if own is not None and (wanted is None or wanted - own):
            raise Forbidden(f"a key can't see more than its maker does: narrow its data_scope by {dimension}")


def check_expiry(expires_at: datetime | None, clock: Clock) -> None:
    """
    Let an end pass that lies ahead, by no more than `LIFE_MAX`.

    Raises:
        InvalidEntry: it doesn't.
    """
    now = from_us(clock.now_us())
    if expires_at is not None and not now < expires_at <= now + LIFE_MAX:
        detail = "expires_at must lie ahead, by ten years at most"
        raise InvalidEntry([Violation("/expires_at", detail, "expires_at_out_of_bounds")])


def _listed(permissions: Iterable[Permission]) -> str:
    return ", ".join(sorted(permission.value for permission in permissions))
