"""API keys and generations of tenant keys as admin's routes take and show them."""

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from audit_contracts.event import NAME_PATTERN, Severity
from audit_contracts.ports.tenant_directory import KEY_NAME_CHARS_MAX, ApiKey
from audit_contracts.ports.tenant_keys import KeyPurpose
from audit_contracts.principal import DataScope, Permission, Role

DATA_SCOPE_NAMES_MAX: Final = 1_000

_KEY: Final[dict[str, Any]] = {
    "key_id": "01996b1c-3a40-7c3e-9d5e-0f6b7c1f2a44",
    "name": "billing service",
    "role": "producer",
    "scope": None,
    "data_scope": {},
    "created_at": "2026-09-21T13:33:20.123456Z",
    "created_by": "https://issuer.example|ada",
    "expires_at": "2027-09-21T00:00:00Z",
    "revoked_at": None,
    "last_used_at": None,
}
API_KEY_EXAMPLE: Final = f"alk.acme.AZlrHDpAfD6dXg9rfB8qRA.{'0' * 43}"

_Name = Annotated[str, Field(pattern=NAME_PATTERN.replace(r"\Z", "$"))]
_Names = Annotated[frozenset[_Name], Field(max_length=DATA_SCOPE_NAMES_MAX)]


class DataScopeModel(BaseModel):
    """Which entries the key's reads may show; what is left out is open, an empty list shows nothing."""

    model_config = ConfigDict(extra="forbid")

    resource_types: _Names | None = None
    severities: frozenset[Severity] | None = None
    sources: _Names | None = None

    def scope(self) -> DataScope:
        """The same for the rest of the house."""
        return DataScope(
            resource_types=self.resource_types,
            severities=None if self.severities is None else frozenset(severity.value for severity in self.severities),
            sources=self.sources,
        )


class NewApiKeyIn(BaseModel):
    """A key to be made. It never gets a right that its maker lacks."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "billing service", "role": "producer", "expires_at": "2027-09-21T00:00:00Z"}]
        },
    )

    name: Annotated[
        str,
        StringConstraints(
            strip_whitespace=True, min_length=1, max_length=KEY_NAME_CHARS_MAX, pattern=r"^[^\x00-\x1f\x7f]+$"
        ),
        Field(description="For people, to tell it from others.", examples=["billing service"]),
    ]
    role: Role
    scope: Annotated[
        frozenset[Permission] | None,
        Field(min_length=1, description="Narrows the role to these permissions; null leaves it whole."),
    ] = None
    data_scope: DataScopeModel = DataScopeModel()
    expires_at: Annotated[
        AwareDatetime | None, Field(description="When it ends by itself, at most ten years from now; null: never.")
    ] = None


class ApiKeyOut(BaseModel):
    """An API key without its secret. `last_used_at` is when it last submitted an entry that the ledger has."""

    model_config = ConfigDict(json_schema_extra={"examples": [_KEY]})

    key_id: UUID
    name: str
    role: Role
    scope: list[Permission] | None
    data_scope: DataScopeModel
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class CreatedApiKeyOut(ApiKeyOut):
    """A key just made. `api_key` is shown this once and kept nowhere: send it as a bearer token."""

    model_config = ConfigDict(json_schema_extra={"examples": [_KEY | {"api_key": API_KEY_EXAMPLE}]})

    api_key: str


class ApiKeyPageOut(BaseModel):
    """Keys, newest first, revoked and expired ones included; `next_token` is missing on the last page."""

    results: list[ApiKeyOut]
    count: int
    next_token: str | None = None


class KeyGenerationOut(BaseModel):
    """One generation of a key that seals the tenant's data."""

    purpose: KeyPurpose
    generation: int = Field(ge=1)
    key_id: UUID
    created_at: datetime


class KeyRotationOut(BaseModel):
    """The generations that a rotation added; each part writes with them within five minutes."""

    rotated: list[KeyGenerationOut]


def api_key_fields(key: ApiKey) -> dict[str, Any]:
    """The key as JSON-able fields, as shown and as recorded: without its tenant and its secret's hash."""
    fields: dict[str, Any] = msgspec.to_builtins(key)
    del fields["tenant"], fields["secret_hash"]
    fields["scope"] = None if key.scope is None else sorted(key.scope)
    fields["data_scope"] = {
        name: sorted(values) for name, values in msgspec.to_builtins(key.data_scope).items() if values is not None
    }
    return fields
