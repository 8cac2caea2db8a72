"""
Bring a database to this version's schema, as its owner, and give each part its login.

Safe to run again, and twice at once. What is made is printed once and kept nowhere: passwords of new logins as lines
for an environment file, and for a new database the one key of its operator, who makes tenants and their keys.
"""

from __future__ import annotations

from audit_allinone import preparing
from audit_allinone.urls import url_as
from audit_backends.schema import migrations
from audit_kit.clock import SystemClock
from audit_kit.settings import Settings


async def migrate(settings: Settings) -> list[str]:
    """
    Migrate, and answer what is to be printed, each line good for an environment file.

    Raises:
        SettingsError: the owner's URL or the key store's is not set.
        AuditLogError, OSError, asyncpg.PostgresError: the database refuses; the step that failed left nothing.
    """
    settings.require("database_url", "key_store_url")
    owner_url, key_store_url = settings.secret("database_url"), settings.secret("key_store_url")
    migrated = await migrations.migrate(owner_url)
    await preparing.make_root_key(owner_url, key_store_url)
    operator_key = await preparing.ensure_operator(owner_url, key_store_url, clock=SystemClock())
    lines = [
        f"# schema version {migrated.version}"
        + (f": applied {', '.join(migrated.applied)}" if migrated.applied else "")
    ]
    lines += [
        f"AUDITLOG_{part.upper()}_DATABASE_URL={url_as(owner_url, f'auditlog_{part}', password)}"
        for part, password in migrated.passwords.items()
    ]
    if operator_key is not None:
        lines += [
            "# the operator's one key: who has it makes tenants; it is not shown again",
            f"AUDITLOG_TOKEN={operator_key}",
        ]
    return lines
