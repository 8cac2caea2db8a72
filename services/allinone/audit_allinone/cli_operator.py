"""The verbs of who runs the service. What a verb needs is imported when it runs, so that `--help` is quick."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from audit_allinone.console import say, tell
from audit_allinone.failures import Failure
from audit_contracts.principal import TenantId
from audit_kit.logs import LogFormat, LogLevel, configure_logs
from audit_kit.settings import Settings

PORT = {"min": 0, "max": 65_535, "show_default": False}

Tenant = Annotated[str, typer.Option("--tenant", help="Whose.", show_default=False)]


def up(
    host: Annotated[str | None, typer.Option(help="Where to listen. [default: 127.0.0.1]", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="The one port of everything. [default: 8080]", **PORT)] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of data and keys. [default: .auditlog, as root /var/lib/auditlog]", show_default=False
        ),
    ] = None,
    demo: Annotated[
        bool | None,
        typer.Option(
            "--demo/--no-demo",
            help="Have a demo tenant to look at. [default: with the embedded database]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """
    Run everything on this machine, and say how to go on.

    Starts a PostgreSQL of its own, unless AUDITLOG_DATABASE_URL names one, and every part on one port. Ctrl-C or
    SIGTERM ends it once the requests at hand are answered; the next start continues.

    A database that it made itself is in **development mode** while it listens on this machine alone: whoever reaches
    it can be anybody.
    """
    from audit_allinone.up import up as run
    from audit_kit.running import Address

    settings = _settings(host=host, port=port, data_dir=data_dir)
    # A person watches this one: they are told what matters, and all of it only where they ask.
    _begin(settings, settings.log_level if "log_level" in settings.model_fields_set else "warning")
    uvloop.run(run(settings, address=Address(settings.host, settings.port), demo=demo))


def serve(
    parts: Annotated[list[str], typer.Argument(help="One or more of: ingest, projector-ledger, query, admin.")],
    host: Annotated[str | None, typer.Option(help="Where the API listens. [AUDITLOG_HOST]", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Its port. [AUDITLOG_PORT]", **PORT)] = None,
    health_host: Annotated[
        str | None, typer.Option(help="Where health and metrics listen. [AUDITLOG_HEALTH_HOST]", show_default=False)
    ] = None,
    health_port: Annotated[int | None, typer.Option(help="Their port. [AUDITLOG_HEALTH_PORT]", **PORT)] = None,
) -> None:
    """
    Run parts of the service, as one process of many.

    Needs AUDITLOG_KEY_STORE_URL and, for each part, the URL of its own login: AUDITLOG_INGEST_DATABASE_URL,
    AUDITLOG_PROJECTOR_DATABASE_URL, AUDITLOG_QUERY_DATABASE_URL, AUDITLOG_ADMIN_DATABASE_URL. Makes and changes
    nothing: run `auditlog migrate` before. /livez, /readyz and /metrics have a port of their own.
    """
    from audit_allinone.serve import serve as run
    from audit_allinone.wiring import LOGINS
    from audit_kit.running import Address

    if unknown := sorted(set(parts) - set(LOGINS)):
        raise Failure(f"there is no part {', '.join(unknown)}; there are: {', '.join(LOGINS)}", status=2)
    settings = _settings(host=host, port=port, health_host=health_host, health_port=health_port)
    _begin(settings, settings.log_level)
    uvloop.run(
        run(
            [name for name in LOGINS if name in parts],
            settings,
            address=Address(settings.host, settings.port),
            health=Address(settings.health_host, settings.health_port),
        )
    )


def migrate() -> None:
    """
    Bring the database to this version's schema, and make what it lacks.

    Needs AUDITLOG_DATABASE_URL (the owner's) and AUDITLOG_KEY_STORE_URL. Safe to run again, and twice at once; the
    version before goes on running against the result.

    Prints what it makes, once and as lines for an environment file: URLs of new logins with their passwords and, for a
    new database, the one key of its operator, who makes tenants.
    """
    from audit_allinone.migrate import migrate as run

    settings = _settings()
    _begin(settings, settings.log_level)
    for line in uvloop.run(run(settings)):
        say(line)


def config() -> None:
    """Show the settings in effect and where each comes from; secrets stay hidden."""
    from audit_allinone.settings_shown import show

    settings = _settings()
    show(settings)
    _warn(settings)


def list_dead_letters(
    tenant: Tenant,
    replayed: Annotated[bool, typer.Option("--replayed", help="Also those that were sent again.")] = False,
) -> None:
    """
    List what could not be written, with the reason: a table on a terminal, lines of JSON into a pipe.

    Needs AUDITLOG_PROJECTOR_DATABASE_URL, or an `auditlog up` that runs on this machine. Shows no content.
    """
    from audit_allinone.dead_letters import show

    settings = _settings()
    _begin(settings, "warning")
    uvloop.run(show(settings, TenantId(tenant), replayed=replayed))


def replay_dead_letters(
    tenant: Tenant,
    ids: Annotated[
        list[int] | None, typer.Argument(help="Which, by id; without any: all that were not sent again yet.")
    ] = None,
) -> None:
    """Send dead letters to the ledger again, once what stood in their way is gone. Doing so twice adds nothing."""
    from audit_allinone.dead_letters import replay

    settings = _settings()
    _begin(settings, "warning")
    count = uvloop.run(replay(settings, TenantId(tenant), ids or []))
    say(f"{count} sent again")


def _settings(**options: Any) -> Settings:
    """The settings of the environment, with those options over them that were given."""
    return Settings.read(**{name: value for name, value in options.items() if value is not None})


def _begin(settings: Settings, level: LogLevel) -> None:
    chosen: LogFormat = settings.log_format
    if "log_format" not in settings.model_fields_set and sys.stderr.isatty():
        chosen = "console"
    configure_logs(level=level, format=chosen)
    _warn(settings)


def _warn(settings: Settings) -> None:
    for warning in settings.warnings():
        tell(f"warning: {warning}")
