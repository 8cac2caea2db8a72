"""The part `query`: reads of the ledger over HTTP."""

from __future__ import annotations

from audit_contracts.ports.clock import Clock
from audit_contracts.ports.ledger import LedgerReader
from audit_kit.access import AccessRecorder
from audit_kit.keyring import Keyring
from audit_kit.part import Part, ReadyCheck
from audit_query import openapi
from audit_query.reading import Reading
from audit_query.routes import routes


def query(*, reader: LedgerReader, keyring: Keyring, access: AccessRecorder, clock: Clock) -> Part:
    """
    Lists of entries and single ones, each read recorded by `access`.

    All of it is opened and closed by who gives it; `keyring` has to be one of query's own login.
    """
    reading = Reading(reader=reader, keyring=keyring, clock=clock)
    return Part(
        name="query",
        routes=routes(reading=reading, access=access),
        schemas=openapi.SCHEMAS,
        workers=[access.worker()],
        ready_checks=[ReadyCheck(name="ledger", check=reader.check)],
    )
