"""
Brings a PostgreSQL database to the schema of this version: forward only, one transaction a step.

A step never takes away what the version before it uses, so that parts of both run side by side during a rolling update.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from audit_contracts.errors import AuditLogError

PARTS: Final = ("ingest", "projector", "query", "admin")
"""Parts with a login of their own: `auditlog_<part>`."""

_LOCK: Final = 0x617564_69746C_6F67 & 0x7FFF_FFFF_FFFF_FFFF
_STEP_NAME: Final = re.compile(r"(\d{4})_\w+\.sql")


class SchemaTooOld(AuditLogError):
    """The database lacks migrations that this version needs: run `auditlog migrate`."""


class Step(msgspec.Struct, frozen=True):
    """One migration."""

    version: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the SQL, to see that an applied step is still what it was."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


class Migrated(msgspec.Struct, frozen=True):
    """What a run did. `passwords` are those of the logins that it made, by part; they are kept nowhere else."""

    version: int
    applied: Sequence[str]
    passwords: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Migrated(version={self.version}, applied={list(self.applied)})"


def steps() -> Sequence[Step]:
    """All migrations of this version, in order."""
    found = [
        Step(int(match[1]), file.name.removesuffix(".sql"), file.read_text("utf-8"))
        for file in resources.files(__package__).iterdir()
        if (match := _STEP_NAME.fullmatch(file.name))
    ]
    return sorted(found, key=lambda step: step.version)


async def migrate(owner_url: str, *, passwords: Mapping[str, str] | None = None) -> Migrated:
    """
    Apply what is missing, as the database's owner (who may create roles). Two runs at once do it once.

    Args:
        passwords: by part; set on its login in any case. A login that doesn't exist is made with a random one
            where none is given.

    Raises:
        asyncpg.PostgresError: the database refuses; the step that failed left nothing.
    """
    connection: asyncpg.Connection[Any] = await asyncpg.connect(owner_url, timeout=10)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        made = await _ensure_logins(connection, passwords or {})
        await connection.execute(
            """
            CREATE SCHEMA IF NOT EXISTS auditlog_migrations;
            CREATE TABLE IF NOT EXISTS auditlog_migrations.applied (
                version integer PRIMARY KEY,
                name text NOT NULL,
                sha256 text NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
            );
            GRANT USAGE ON SCHEMA auditlog_migrations
                TO auditlog_ingest, auditlog_projector, auditlog_query, auditlog_admin;
            GRANT SELECT ON auditlog_migrations.applied
                TO auditlog_ingest, auditlog_projector, auditlog_query, auditlog_admin;
            """
        )
        known = {row["version"] for row in await connection.fetch("SELECT version FROM auditlog_migrations.applied")}
        applied = []
        for step in steps():
            if step.version in known:
                continue
            async with connection.transaction():
                await connection.execute(step.sql)
                await connection.execute(
                    "INSERT INTO auditlog_migrations.applied (version, name, sha256) VALUES ($1, $2, $3)",
                    step.version,
                    step.name,
                    step.digest,
                )
            applied.append(step.name)
        return Migrated(max(known | {step.version for step in steps()}), applied, made)
    finally:
        await connection.close(timeout=5)


async def check(connection: asyncpg.Connection[Any] | PoolConnectionProxy[Any]) -> None:
    """
    That the database has all that this version needs. A newer schema is fine.

    Raises:
        SchemaTooOld: it doesn't.
    """
    try:
        version = await connection.fetchval("SELECT max(version) FROM auditlog_migrations.applied")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError):
        version = None
    needed = steps()[-1].version
    if (version or 0) < needed:
        raise SchemaTooOld(
            f"the database is at schema version {version or 0} and this version needs {needed}: run `auditlog migrate`"
        )


async def _ensure_logins(connection: asyncpg.Connection[Any], passwords: Mapping[str, str]) -> Mapping[str, str]:
    made = {}
    for part in PARTS:
        login = f"auditlog_{part}"
        exists = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", login)
        password = passwords.get(part)
        if not exists:
            password = made[part] = password or secrets.token_urlsafe(24)
        if password is not None:
            verb = "ALTER" if exists else "CREATE"
            # Utility statements take no parameters; format() quotes, and the password leaves no statement log behind.
            statement = await connection.fetchval(
                "SELECT format('%s ROLE %I LOGIN PASSWORD %L', $1::text, $2::text, $3::text)", verb, login, password
            )
            async with connection.transaction():
                await connection.execute(
                    "SET LOCAL log_statement = 'none'; SET LOCAL log_min_error_statement = 'panic'"
                )
                await connection.execute(statement)
    return made
