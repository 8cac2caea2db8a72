"""The `auditlog` command: its verbs, and how it ends."""

from __future__ import annotations

import sys
from typing import Final

import typer

from audit_allinone import cli_client, cli_operator
from audit_allinone.console import tell
from audit_allinone.failures import Failure, explained

app = typer.Typer(
    name="auditlog",
    help="An append-only audit log for many tenants: masked, sealed, exactly once, provable.\n\n"
    "`auditlog up` runs everything on this machine and says how to go on. Settings come from AUDITLOG_* variables; "
    "`auditlog config` shows them all.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
dead_letters = typer.Typer(help="What could not be written to the ledger.", no_args_is_help=True)

_ON_THE_SERVER: Final = "On the server"
_AS_A_CLIENT: Final = "As a client"

app.command(rich_help_panel=_ON_THE_SERVER)(cli_operator.up)
app.command(rich_help_panel=_ON_THE_SERVER)(cli_operator.serve)
app.command(rich_help_panel=_ON_THE_SERVER)(cli_operator.migrate)
app.command(rich_help_panel=_ON_THE_SERVER)(cli_operator.config)
app.add_typer(dead_letters, name="dead-letters", rich_help_panel=_ON_THE_SERVER)
dead_letters.command("list")(cli_operator.list_dead_letters)
dead_letters.command("replay")(cli_operator.replay_dead_letters)
app.command(rich_help_panel=_AS_A_CLIENT)(cli_client.token)
app.command(rich_help_panel=_AS_A_CLIENT)(cli_client.send)
app.command(rich_help_panel=_AS_A_CLIENT)(cli_client.search)
app.command("import", rich_help_panel=_AS_A_CLIENT)(cli_client.import_)
app.command("rotate-keys", rich_help_panel=_AS_A_CLIENT)(cli_client.rotate_keys)


def main() -> None:
    """
    Run the command and end the process: with 0 where all was done, else with a text on standard error that says why.

    Ctrl-C (130) and a reader that has seen enough (1) are typer's to handle, and end it without a text.
    """
    try:
        app()
    except Exception as exc:
        text = explained(exc)
        if text is None:
            raise
        tell(text)
        sys.exit(exc.status if isinstance(exc, Failure) else 1)
