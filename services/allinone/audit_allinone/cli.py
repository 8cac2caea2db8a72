"""The `auditlog` command: its verbs with their options, and how it ends."""

import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvloop

from audit_allinone.console import say, tell
from audit_allinone.failures import Failure, explained
from audit_kit.logs import LogFormat, LogLevel, configure_logs
from audit_kit.running import Address, AddressUnavailable
from audit_kit.settings import Settings, SettingsError

INTERRUPTED: Final = 130

app = typer.Typer(
    name="auditlog",
    help="An append-only audit log for many tenants: masked, sealed, exactly once, provable.\n\n"
    "`auditlog up` runs everything on this machine and says how to go on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main() -> None:
    """Run the command and end the process: 0 where all was done, else with a text on standard error that says why."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (SettingsError, AddressUnavailable) as exc:
        tell(str(exc))
        sys.exit(1)
    except Exception as exc:
        text = explained(exc)
        if text is None:
            raise
        tell(text)
        sys.exit(exc.status if isinstance(exc, Failure) else 1)


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Where to listen. [default: 127.0.0.1]", show_default=False)] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="The one port of everything. [default: 8080]", show_default=False),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where data and keys lie. [default: .auditlog, as root /var/lib/auditlog]", show_default=False
        ),
    ] = None,
    demo: Annotated[
        bool | None,
        typer.Option(
            "--demo/--no-demo",
            help="Whether there is a demo tenant to look at. [default: with the embedded database]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """
    Run everything on this machine, and say how to go on.

    Starts a PostgreSQL of its own, unless AUDITLOG_DATABASE_URL names one, and every part on one port. Ctrl-C or
    SIGTERM ends it after the requests at hand; the next start continues. Anyone who starts it can be anybody: a
    database that it made itself is in development mode as long as it listens on this machine alone.
    """
    from audit_allinone.up import up as run

    settings = _settings(host=host, port=port, data_dir=data_dir)
    quiet = "log_level" not in settings.model_fields_set
    _begin(settings, level="warning" if quiet else settings.log_level)
    _run(run(settings, address=Address(settings.host, settings.port), demo=demo))


@app.command()
def serve(
    parts: Annotated[list[str], typer.Argument(help="ingest, projector-ledger, query, admin: one or more.")],
    host: Annotated[str | None, typer.Option(help="Where the API listens. [AUDITLOG_HOST]", show_default=False)] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Its port. [AUDITLOG_PORT]", show_default=False)
    ] = None,
    health_host: Annotated[
        str | None, typer.Option(help="Where health and metrics listen. [AUDITLOG_HEALTH_HOST]", show_default=False)
    ] = None,
    health_port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Their port. [AUDITLOG_HEALTH_PORT]", show_default=False),
    ] = None,
) -> None:
    """
    Run parts of the service, for one process, container or pod each.

    Needs AUDITLOG_KEY_STORE_URL and, for each part, its own login's URL: AUDITLOG_INGEST_DATABASE_URL,
    AUDITLOG_PROJECTOR_DATABASE_URL, AUDITLOG_QUERY_DATABASE_URL, AUDITLOG_ADMIN_DATABASE_URL. Changes no schema: run
    `auditlog migrate` before. Answers /livez, /readyz and /metrics on a port of their own.
    """
    from audit_allinone.serve import serve as run
    from audit_allinone.wiring import LOGINS

    if unknown := sorted(set(parts) - set(LOGINS)):
        raise Failure(f"there is no part {', '.join(unknown)}; there are: {', '.join(LOGINS)}", status=2)
    settings = _settings(host=host, port=port, health_host=health_host, health_port=health_port)
    _begin(settings, level=settings.log_level)
    names = [name for name in LOGINS if name in parts]
    address, health = Address(settings.host, settings.port), Address(settings.health_host, settings.health_port)
    _run(run(names, settings, address=address, health=health))


@app.command()
def migrate() -> None:
    """
    Bring the database to this version's schema, and make what it lacks.

    Needs AUDITLOG_DATABASE_URL (the owner's) and AUDITLOG_KEY_STORE_URL. Safe to run again, and twice at once; the
    version before goes on running against the result. Prints, once, what it makes: URLs of new logins with their
    passwords, and the operator's one key of a new database, as lines for an environment file.
    """
    from audit_allinone.migrate import migrate as run

    settings = _settings()
    _begin(settings, level=settings.log_level)
    for line in _run(run(settings)):
        say(line)


def _settings(**options: Any) -> Settings:
    """The settings of the environment, with those options over them that were given."""
    return Settings.read(**{name: value for name, value in options.items() if value is not None})


def _begin(settings: Settings, *, level: LogLevel) -> None:
    chosen: LogFormat = settings.log_format
    if "log_format" not in settings.model_fields_set and sys.stderr.isatty():
        chosen = "console"
    configure_logs(level=level, format=chosen)
    for warning in settings.warnings():
        tell(f"warning: {warning}")


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return uvloop.run(work)
