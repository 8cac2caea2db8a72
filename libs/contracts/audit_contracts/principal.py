"""Who asks: tenant, subject, role, and what narrows them. Built by kit's authentication and by nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NewType

import msgspec

TenantId = NewType("TenantId", str)
TENANT_ID_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
OPERATOR_TENANT: Final = TenantId("operator")
SUBJECT_CHARS_MAX: Final = 256

_TENANT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def tenant_id(text: str) -> TenantId:
    """
    `text` as a tenant id.

    Raises:
        ValueError: it isn't 1 to 63 characters of `a-z 0-9 _ -` that begin with a letter or digit.
    """
    if _TENANT_ID.fullmatch(text) is None:
        raise ValueError("a tenant id is 1 to 63 characters of a-z, 0-9, _ and -, beginning with a letter or digit")
    return TenantId(text)


class Role(StrEnum):
    """The `access_level` of a token."""

    ADMIN = "admin"
    AUDITOR = "auditor"
    USER = "user"
    PRODUCER = "producer"


class Permission(StrEnum):
    """What a route demands, and what the `scope` claim of a token or key may list to narrow its role."""

    LOGS_WRITE = "logs:write"
    LOGS_READ = "logs:read"
    TENANT_READ = "tenant:read"
    TENANT_WRITE = "tenant:write"
    TENANTS_ADMINISTER = "tenants:administer"


PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.ADMIN: frozenset(
        {Permission.LOGS_WRITE, Permission.LOGS_READ, Permission.TENANT_READ, Permission.TENANT_WRITE}
    ),
    Role.AUDITOR: frozenset({Permission.LOGS_READ}),
    Role.USER: frozenset({Permission.LOGS_WRITE, Permission.LOGS_READ}),
    Role.PRODUCER: frozenset({Permission.LOGS_WRITE}),
}
"""What each role may do. `TENANTS_ADMINISTER` is for admins of the operator tenant alone, see `permissions_of`."""


def permissions_of(tenant: TenantId, role: Role) -> frozenset[Permission]:
    """What `role` may do in `tenant` before a scope narrows it."""
    if tenant == OPERATOR_TENANT and role is Role.ADMIN:
        return PERMISSIONS[role] | {Permission.TENANTS_ADMINISTER}
    return PERMISSIONS[role]


class DataScope(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries a reader may see at all; `None` leaves a dimension open, an empty set closes it."""

    resource_types: frozenset[str] | None = None
    severities: frozenset[str] | None = None
    sources: frozenset[str] | None = None


EVERYTHING: Final = DataScope()


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """
    A verified identity.

    `issuer` is the JWT's `iss`, or `key` for an API key; `subject` its `sub`, or the key's id. `permissions` is what is
    left of the role after the scope. `own_entries_of` is set for role `user`: it writes and sees only entries whose
    `user_id` equals it.
    """

    tenant: TenantId
    issuer: str
    subject: str
    role: Role
    permissions: frozenset[Permission]
    data_scope: DataScope = EVERYTHING
    own_entries_of: str | None = None

    @property
    def name(self) -> str:
        """The principal as it stands in `submitted_by`: `iss|sub`."""
        return f"{self.issuer}|{self.subject}"

    def may(self, permission: Permission) -> bool:
        """Whether role and scope together allow it."""
        return permission in self.permissions
