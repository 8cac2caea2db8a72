"""Who may call a route: declared beside the handler, checked in one place in front of it, missing only by mistake."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from audit_contracts.errors import Forbidden
from audit_contracts.principal import Permission, Principal, Role

_ATTRIBUTE: Final = "__auditlog_policy__"
_Handler = TypeVar("_Handler", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """For principals that hold `permission` and, where `roles` is given, one of these roles."""

    permission: Permission
    roles: frozenset[Role] | None = None

    def check(self, principal: Principal) -> None:
        """
        Let the principal pass.

        Raises:
            Forbidden: it lacks the permission or the role.
        """
        if not principal.may(self.permission):
            raise Forbidden(f"this needs the permission {self.permission.value}")
        if self.roles is not None and principal.role not in self.roles:
            allowed = ", ".join(sorted(role.value for role in self.roles))
            raise Forbidden(f"this needs one of the roles {allowed}")


@dataclass(frozen=True, slots=True)
class Public:
    """For everybody, without a credential. To be chosen with care: nothing of a tenant may be behind it."""


Policy = Access | Public
PUBLIC: Final = Public()


class UndeclaredPolicy(Exception):
    """A route says nothing about who may call it; the process must not start."""


def requires(permission: Permission, *, roles: Collection[Role] | None = None) -> Callable[[_Handler], _Handler]:
    """Declare a FastAPI handler's policy; stands below the router's decorator."""
    return _declared(Access(permission=permission, roles=None if roles is None else frozenset(roles)))


def public(handler: _Handler) -> _Handler:
    """Declare that anyone may call a FastAPI handler; stands below the router's decorator."""
    return _declared(PUBLIC)(handler)


def policy_of(handler: Callable[..., Any], route: str) -> Policy:
    """
    What was declared for `handler`.

    Raises:
        UndeclaredPolicy: nothing was.
    """
    policy = getattr(handler, _ATTRIBUTE, None)
    if not isinstance(policy, Access | Public):
        raise UndeclaredPolicy(f"{route} declares no access policy: put @requires(...) or @public on its handler")
    return policy


def _declared(policy: Policy) -> Callable[[_Handler], _Handler]:
    def mark(handler: _Handler) -> _Handler:
        setattr(handler, _ATTRIBUTE, policy)
        return handler

    return mark
