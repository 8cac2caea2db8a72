"""
Every error that crosses a wall of the house, as one tree. The class tells its caller what to do:

    AuditLogError
    ├── Refused             fix the request; repeating it as it is never helps
    │   ├── InvalidEntry        the entry, or a document like it, breaks its contract
    │   ├── InvalidQuery        a filter, parameter or cursor is wrong
    │   │   ├── InvalidParameter
    │   │   └── InvalidCursor
    │   ├── IdempotencyConflict the key was used with another body
    │   ├── TooLarge            a bound on size was passed
    │   ├── Unauthenticated     no identity
    │   ├── Forbidden           an identity without the right
    │   │   ├── TenantMismatch
    │   │   └── TenantSuspended
    │   ├── NotFound
    │   ├── AlreadyExists
    │   ├── WrongState          the thing must be in another state first
    │   └── Outdated            the thing has changed since it was read; read it again
    ├── NotDone             nothing happened; wait `retry_after_s` and repeat
    │   ├── RateLimited
    │   ├── QueueFull
    │   ├── QueueUnavailable
    │   ├── LedgerUnavailable
    │   ├── KeyUnavailable
    │   └── DirectoryUnavailable
    ├── OutcomeUnknown      it may have happened; repeat the identical call
    │   ├── SendUnknown
    │   └── AppendUnknown
    └── Broken              a promise of the house is broken; stop, never log and go on
        ├── SealBroken
        └── InvariantBroken
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Violation(msgspec.Struct, frozen=True):
    """One reason why a document is refused: where (RFC 6901 pointer), what a person should know, a stable code."""

    pointer: str
    detail: str
    code: str


class AuditLogError(Exception):
    """The root. `detail` is written for the person who can act on it and never holds a value of an entry."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


class Refused(AuditLogError):
    """The request is wrong as it stands."""


class InvalidEntry(Refused):
    """
    A document breaks its contract; nothing of it was taken.

    `total` counts all violations; `violations` may be a capped list of them.
    """

    def __init__(self, violations: Sequence[Violation], *, total: int | None = None) -> None:
        super().__init__(violations[0].detail if violations else "the document is invalid")
        self.violations = tuple(violations)
        self.total = len(self.violations) if total is None else total


class InvalidQuery(Refused):
    """The question can't be answered as asked."""


class InvalidParameter(InvalidQuery):
    """A query parameter is unknown, or its value is outside its bounds."""

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(detail)
        self.parameter = parameter


class InvalidCursor(InvalidQuery):
    """A `next_token` was tampered with, or belongs to another tenant, filter or reader."""


class IdempotencyConflict(Refused):
    """The Idempotency-Key was used before with another body."""


class TooLarge(Refused):
    """A bound on size was passed; `limit_bytes` says which where it is one of bytes."""

    def __init__(self, detail: str, *, limit_bytes: int | None = None) -> None:
        super().__init__(detail)
        self.limit_bytes = limit_bytes


class Unauthenticated(Refused):
    """The request carries no identity that can be verified."""


class Forbidden(Refused):
    """The identity lacks the right."""


class TenantMismatch(Forbidden):
    """The document names another tenant than the token."""


class TenantSuspended(Forbidden):
    """The tenant may not do this while it is suspended or blocked."""


class NotFound(Refused):
    """There is no such thing, or none that the caller may know of."""


class AlreadyExists(Refused):
    """A thing of this name exists."""


class WrongState(Refused):
    """The thing is not in the state that this needs."""


class Outdated(Refused):
    """The thing is at another version than the caller has seen."""


class NotDone(AuditLogError):
    """Nothing happened; the same call may succeed after `retry_after_s` seconds."""

    def __init__(self, detail: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class RateLimited(NotDone):
    """The caller is over its limit."""


class QueueFull(NotDone):
    """The event queue, or the memory in front of it, is at its bound."""


class QueueUnavailable(NotDone):
    """The event queue can't be reached, and took nothing."""


class LedgerUnavailable(NotDone):
    """The ledger can't be reached, and wrote nothing."""


class KeyUnavailable(NotDone):
    """A key can't be had now; what needs it waits."""


class DirectoryUnavailable(NotDone):
    """A tenant's policy can't be read, so nothing is done in its name."""


class OutcomeUnknown(AuditLogError):
    """The call may have taken effect; only the identical call may be repeated."""


class SendUnknown(OutcomeUnknown):
    """A batch may stand in the queue; resend the identical batch."""


class AppendUnknown(OutcomeUnknown):
    """A commit may have happened; append the identical batches again, the ledger drops repeats."""


class Broken(AuditLogError):
    """Something that is never so is so."""


class SealBroken(Broken):
    """Sealed bytes don't open under their key: altered, cut, or sealed for something else."""


class InvariantBroken(Broken):
    """The ledger contradicts itself."""
