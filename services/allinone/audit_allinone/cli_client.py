"""The verbs of who uses the service: they speak to its API and to nothing else."""

import getpass
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
import uvloop

from audit_allinone.console import say
from audit_allinone.failures import Failure
from audit_allinone.import_entries import Format
from audit_allinone.profile import server_url
from audit_allinone.profile import target as the_target
from audit_contracts.principal import Role
from audit_contracts.query import EXACT_FIELDS, LIMIT_DEFAULT, PREFIX_FIELDS, Direction

_SERVER = "Server (default: the profile that `auditlog up` wrote)"

Url = Annotated[
    str | None, typer.Option(help="The server. [AUDITLOG_URL]", rich_help_panel=_SERVER, show_default=False)
]
Token = Annotated[
    str | None,
    typer.Option(
        help="Token or API key; the variable keeps it out of the list of processes. [AUDITLOG_TOKEN]",
        rich_help_panel=_SERVER,
        show_default=False,
    ),
]
Text = Annotated[str | None, typer.Option(show_default=False)]
Json = Annotated[str | None, typer.Option(help="As JSON.", metavar="JSON", show_default=False)]


def token(
    tenant: Annotated[str | None, typer.Option(help="Of which tenant.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="As whom.", show_default=False)] = None,
    role: Annotated[Role | None, typer.Option(help="With which access level.", show_default=False)] = None,
    url: Url = None,
) -> None:
    """
    Print a token, for curl and other clients.

    Without options: the profile's. With --tenant, --user and --role: one of anybody, for an hour, from a server in
    development mode.
    """
    from audit_allinone.tokens import mocked

    if tenant is None and user is None and role is None:
        say(the_target(url, None).token)
        return
    if tenant is None:
        raise Failure("--tenant says of which tenant the token is to be", status=2)
    role = role or Role.ADMIN
    say(mocked(server_url(url), tenant=tenant, user=user or getpass.getuser(), role=role.value))


def send(
    action: Annotated[str, typer.Option(help="What was done, like LOGIN or UPDATE.", show_default=False)],
    resource_type: Annotated[str, typer.Option(help="To what kind of thing.", show_default=False)],
    resource_id: Annotated[str, typer.Option(help="To which.", show_default=False)],
    user_id: Annotated[
        str | None, typer.Option(help="By whom. [default: who is logged in]", show_default=False)
    ] = None,
    outcome: Annotated[str | None, typer.Option(help="success, failure, unknown.", show_default=False)] = None,
    severity: Annotated[str | None, typer.Option(help="INFO, WARNING, ERROR, CRITICAL.", show_default=False)] = None,
    details: Text = None,
    metadata: Json = None,
    before: Json = None,
    after: Json = None,
    timestamp: Annotated[str | None, typer.Option(help="When, with zone. [default: now]", show_default=False)] = None,
    id: Annotated[
        str | None, typer.Option(help="A UUID; the same entry again is no second one.", show_default=False)
    ] = None,
    subject_id: Text = None,
    session_id: Text = None,
    ip_address: Text = None,
    user_agent: Text = None,
    request_id: Text = None,
    correlation_id: Text = None,
    trace_id: Text = None,
    source: Text = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Send one entry, and print it as it is kept: masked, with its id and a receipt."""
    from audit_allinone.send import send as run

    fields = {
        "action": action,
        "resource_type": resource_type,
        "resource_id": resource_id,
        "user_id": user_id or getpass.getuser(),
        "outcome": outcome,
        "severity": severity,
        "details": details,
        "metadata": metadata,
        "before": before,
        "after": after,
        "timestamp": timestamp,
        "id": id,
        "subject_id": subject_id,
        "session_id": session_id,
        "ip_address": ip_address,
        "user_agent": user_agent,
        "request_id": request_id,
        "correlation_id": correlation_id,
        "trace_id": trace_id,
        "source": source,
    }
    kept = run(the_target(url, token), fields)
    say(orjson.dumps(kept, option=orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0).decode())


def import_(
    file: Annotated[
        Path,
        typer.Argument(help="One entry or record a line; gzip and zstd are recognised.", exists=True, dir_okay=False),
    ],
    format: Annotated[Format, typer.Option(help="What the lines are.", show_default=False)],
    url: Url = None,
    token: Token = None,
) -> None:
    """
    Import a file of entries (ndjson) or of AWS CloudTrail records (cloudtrail), one a line.

    Importing the same file again as the same principal adds nothing: after an end of whatever kind, run it again. Waits
    where the server says so, and up to a minute for one that is away.

    Exit status: 0 all imported; 3 some lines rejected, which are then in NAME.rejects.ndjson with line number and
    reason; 1 not all imported.
    """
    from audit_allinone.importing import import_file

    uvloop.run(import_file(the_target(url, token), file, format))


def rotate_keys(
    tenant: Annotated[str, typer.Argument(help="Whose keys.", show_default=False)], url: Url = None, token: Token = None
) -> None:
    """Give a tenant new keys to seal with. What older ones sealed still opens; nothing is rewritten."""
    from audit_allinone.client import answer, opened_client

    with opened_client(the_target(url, token)) as client:
        rotated = answer(client.post(f"/tenants/{tenant}/key-rotations"))["rotated"]
    for key in rotated:
        say(f"{key['purpose']} generation {key['generation']} {key['key_id']}")


def search(**asked: Any) -> None:
    """
    Find entries: a table on a terminal, lines of JSON into a pipe.

    All conditions hold together; one given several times holds for any of its values. Newest first, unless
    `--sort position`.
    """
    from audit_allinone.search import search as run

    target = the_target(asked.pop("url"), asked.pop("token"))
    limit = asked.pop("limit")
    run(target, list(_parameters(asked)), limit=limit)


def _parameters(asked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The options as parameters of GET /logs."""
    for option, value in asked.items():
        name = _PARAMETERS.get(option, option)
        if value is True:
            yield name, "true"
        elif isinstance(value, list):
            yield from ((name, text) for text in value)
        elif value:
            yield name, str(value)


# The options of `search` are made from the contract's own lists of fields, so that none can be forgotten.
_PARAMETERS = {
    "since": "from",
    "until": "to",
    **{f"not_{field}": f"{field}.not" for field in EXACT_FIELDS},
    **{f"{field}_prefix": f"{field}.prefix" for field in PREFIX_FIELDS},
}


def _options() -> Iterator[inspect.Parameter]:
    def option(name: str, kind: Any, default: Any, *declared: str, **more: Any) -> inspect.Parameter:
        info = typer.Option(*declared, **{"metavar": "VALUE", "show_default": False, **more})
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
        )

    yield option("since", str | None, None, "--from", help="Not before this time, like 2026-01-31T12:00:00Z.")
    yield option("until", str | None, None, "--to", help="Before this time.")
    for field in EXACT_FIELDS:
        yield option(field, list[str] | None, None)
    for field in PREFIX_FIELDS:
        yield option(f"{field}_prefix", list[str] | None, None, help="Begins so.")
    for field in EXACT_FIELDS:
        yield option(f"not_{field}", list[str] | None, None, rich_help_panel="Other than")
    yield option(
        "include_access",
        bool,
        False,
        "--include-access",
        metavar=None,
        help="Also reads, changes and refused attempts.",
    )
    yield option("sort", Direction, Direction.NEWEST_FIRST, metavar=None, show_default=True)
    yield option("total", bool, False, "--total", metavar=None, help="Count all that match as well.")
    yield option(
        "limit", int, LIMIT_DEFAULT, metavar=None, min=1, show_default=True, help="Entries at most, over all pages."
    )
    yield inspect.Parameter("url", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Url)
    yield inspect.Parameter("token", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Token)


search.__signature__ = inspect.Signature(list(_options()))  # type: ignore[attr-defined]
