"""How the command ends when it can't do what it was told: a clear text on standard error, and a status."""

from __future__ import annotations


class Failure(Exception):
    """The command ends here; the text is all that its user needs, and `status` what a script sees."""

    def __init__(self, text: str, *, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def explained(exc: BaseException) -> str | None:
    """What a person should know of an error, on lines of its own; None where the error is a fault of ours."""
    # Only who fails waits for these imports.
    import asyncpg
    import httpx

    from audit_allinone.embedded_postgres import EmbeddedPostgresError
    from audit_contracts.errors import AuditLogError
    from audit_kit.running import AddressUnavailable
    from audit_kit.settings import SettingsError

    match exc:
        case BaseExceptionGroup():
            texts = dict.fromkeys(explained(inner) for inner in exc.exceptions)
            return None if None in texts else "\n".join(text for text in texts if text)
        case Failure() | EmbeddedPostgresError() | SettingsError() | AddressUnavailable():
            return str(exc)
        case AuditLogError():
            return exc.detail or type(exc).__name__
        case asyncpg.PostgresError() | asyncpg.InterfaceError():
            return f"the database: {exc}"
        case httpx.HTTPError():
            return f"the server can't be reached: {str(exc) or type(exc).__name__}"
        case OSError():
            return f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
    return None
