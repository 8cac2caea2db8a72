"""Tenants as admin's routes take and show them."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from audit_admin.key_models import CreatedApiKeyOut
from audit_contracts.errors import InvalidEntry, Violation
from audit_contracts.masking_policy import MaskingPolicy, Mode
from audit_contracts.ports.tenant_directory import (
    BURST_EVENTS_MAX,
    EVENTS_PER_S_MAX,
    RETENTION_DAYS_MAX,
    TENANT_NAME_CHARS_MAX,
    IngestMode,
    Tenant,
    TenantChange,
    TenantLimits,
    TenantStatus,
)
from audit_contracts.principal import TENANT_ID_PATTERN

PRINTABLE: Final = r"^[^\x00-\x1f\x7f]+$"

TenantIdText = Annotated[str, Field(pattern=TENANT_ID_PATTERN, examples=["acme"])]
TenantName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=TENANT_NAME_CHARS_MAX, pattern=PRINTABLE),
    Field(examples=["Acme Ltd."]),
]
RetentionDays = Annotated[
    int, Field(strict=True, ge=1, le=RETENTION_DAYS_MAX, description="How long entries are kept.", examples=[365])
]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewTenantIn(_In):
    """A tenant to be created."""

    tenant_id: TenantIdText
    name: TenantName


class KeyRuleModel(_In):
    """A key whose values are masked, in any case style."""

    key: str = Field(examples=["badge number"])
    mode: Mode = "redact"


class RuleChoiceModel(_In):
    """An optional rule switched on, or one of the default made stronger."""

    rule: str = Field(examples=["email"])
    mode: Mode = Field(examples=["hash"])


class PatternRuleModel(_In):
    """What matches this RE2 expression in any string is masked."""

    name: str = Field(examples=["employee_id"])
    pattern: str = Field(examples=["E-[0-9]{6}"])
    mode: Mode = "redact"


class MaskingModel(_In):
    """What a tenant adds to the masking of the default, which it can't weaken."""

    keys: list[KeyRuleModel] = []
    rules: list[RuleChoiceModel] = []
    patterns: list[PatternRuleModel] = []

    def policy(self) -> MaskingPolicy:
        """
        The policy, checked whole.

        Raises:
            InvalidEntry: it breaks a rule; pointers begin at the document that holds it under `masking`.
        """
        try:
            return MaskingPolicy.parse(self.model_dump())
        except InvalidEntry as exc:
            raise InvalidEntry(
                [Violation(f"/masking{fault.pointer}", fault.detail, fault.code) for fault in exc.violations],
                total=exc.total,
            ) from exc


class LimitsModel(_In):
    """Rate limits in events, for each principal of the tenant and for the tenant as a whole."""

    events_per_s: Annotated[int, Field(strict=True, ge=1, le=EVENTS_PER_S_MAX)] = 5_000
    burst_events: Annotated[int, Field(strict=True, ge=1, le=BURST_EVENTS_MAX)] = 50_000


def _patch_schema(schema: dict[str, Any]) -> None:
    """A field that is left out has no default: it stays as it is."""
    for field in schema["properties"].values():
        field.pop("default", None)
    schema["minProperties"] = 1
    schema["examples"] = [{"retention_days": 730, "masking": {"rules": [{"rule": "email", "mode": "hash"}]}}]


class TenantPatchIn(_In):
    """What to change; a field that is left out stays as it is. `masking` and `limits` are replaced as a whole."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_patch_schema)

    name: TenantName = ""
    status: Annotated[Literal["active", "suspended"], Field(description="Set by the operator alone.")] = "active"
    ingest: Annotated[IngestMode, Field(description="Set by the operator alone.")] = IngestMode.OPEN
    masking: MaskingModel = MaskingModel()
    limits: Annotated[LimitsModel, Field(description="Set by the operator alone.")] = LimitsModel()
    retention_days: RetentionDays = 365

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("there is nothing to change")
        return self

    def change(self, version: int | None) -> TenantChange:
        """
        What was sent, for a tenant that the caller saw at `version`.

        Raises:
            InvalidEntry: the masking policy breaks a rule.
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        if "status" in values:
            values["status"] = TenantStatus(self.status)
        if "masking" in values:
            values["masking"] = self.masking.policy()
        if "limits" in values:
            values["limits"] = TenantLimits(**self.limits.model_dump())
        return TenantChange(version=version, **values)


class TenantOut(BaseModel):
    """A tenant as it stands. `version` grows by one with each change; it is the ETag too."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "tenant_id": "acme",
                    "name": "Acme Ltd.",
                    "status": "active",
                    "ingest": "open",
                    "masking": {"keys": [], "rules": [{"rule": "email", "mode": "hash"}], "patterns": []},
                    "limits": {"events_per_s": 5000, "burst_events": 50000},
                    "retention_days": 365,
                    "created_at": "2026-09-21T13:33:20.123456Z",
                    "version": 3,
                }
            ]
        }
    )

    tenant_id: TenantIdText
    name: str
    status: TenantStatus
    ingest: IngestMode
    masking: MaskingModel
    limits: LimitsModel
    retention_days: int
    created_at: datetime
    version: int


class CreatedTenantOut(TenantOut):
    """A tenant just created, with the key by which its first admin enters; hand it over, and let them revoke it."""

    first_key: CreatedApiKeyOut


class TenantPageOut(BaseModel):
    """Tenants in the order of their ids; `next_token` is missing on the last page."""

    results: list[TenantOut]
    count: int
    next_token: str | None = None


def tenant_fields(tenant: Tenant) -> dict[str, Any]:
    """The tenant as JSON-able fields, as shown and as recorded."""
    fields: dict[str, Any] = msgspec.to_builtins(tenant)
    fields["masking"] = {"keys": [], "rules": [], "patterns": []} | fields["masking"]
    return fields
