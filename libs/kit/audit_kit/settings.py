"""Configuration by `AUDITLOG_*`: read once at the start, every problem of it reported together, secrets never shown."""

import difflib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from audit_kit.auth.issuers import ANY_TENANT, Issuer, parse_issuers
from audit_kit.logs import LogFormat, LogLevel

PREFIX: Final = "AUDITLOG_"
HIDDEN: Final = "(hidden)"
CLIENT_VARIABLES: Final = frozenset({"AUDITLOG_PROFILE", "AUDITLOG_TOKEN", "AUDITLOG_URL"})
"""What the command's client verbs read; no part of a service's settings."""

_LOCAL_HOSTS: Final = frozenset({None, "", "localhost", "127.0.0.1", "::1"})
_DATABASE_EXAMPLE: Final = "postgresql://auditlog@db.internal/auditlog?sslmode=verify-full"


class SettingProblem(NamedTuple):
    """One variable, what is wrong with it, and what it could look like."""

    variable: str
    problem: str
    example: str


class SettingsError(Exception):
    """All that is wrong with the environment, one line a variable; never with a secret in it."""

    def __init__(self, problems: list[SettingProblem]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{p.variable}: {p.problem} (for example: {p.example})" for p in problems))


class SettingRow(NamedTuple):
    """One setting as `auditlog config` prints it."""

    variable: str
    value: str
    source: Literal["environment", "default"]
    description: str


def _database_url(url: SecretStr) -> SecretStr:
    if urlsplit(url.get_secret_value()).scheme not in {"postgres", "postgresql"}:
        raise ValueError("must be a URL that begins with postgresql://")
    return url


def _any_url(url: SecretStr) -> SecretStr:
    if not urlsplit(url.get_secret_value()).scheme:
        raise ValueError("must be a URL")
    return url


def _issuers(value: Any) -> Any:
    return parse_issuers(value) if isinstance(value, str) else value


DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
AnyUrl = Annotated[SecretStr, AfterValidator(_any_url)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class Settings(BaseSettings):
    """The effective settings of a process."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, arbitrary_types_allowed=True
    )

    host: str = Field("127.0.0.1", description="Where the API listens.", examples=["0.0.0.0"])  # noqa: S104
    port: Port = Field(8080, description="The API's port.", examples=["8080"])
    health_host: str = Field("127.0.0.1", description="Where `serve` answers health and metrics.", examples=["::"])
    health_port: Port = Field(8081, description="The port of health and metrics under `serve`.", examples=["8081"])
    data_dir: Path | None = Field(
        None, description="Folder of the embedded database and keys.", examples=["/var/lib/auditlog"]
    )

    database_url: DatabaseUrl | None = Field(
        None, description="The database as its owner: for `migrate` and `up`.", examples=[_DATABASE_EXAMPLE]
    )
    ingest_database_url: DatabaseUrl | None = Field(
        None, description="The database as ingest's login.", examples=[_DATABASE_EXAMPLE]
    )
    projector_database_url: DatabaseUrl | None = Field(
        None, description="The database as the projector's login.", examples=[_DATABASE_EXAMPLE]
    )
    query_database_url: DatabaseUrl | None = Field(
        None, description="The database as query's login.", examples=[_DATABASE_EXAMPLE]
    )
    admin_database_url: DatabaseUrl | None = Field(
        None, description="The database as admin's login.", examples=[_DATABASE_EXAMPLE]
    )
    event_queue_url: AnyUrl | None = Field(
        None, description="The event queue; unset: the part's own database.", examples=[_DATABASE_EXAMPLE]
    )
    key_store_url: AnyUrl | None = Field(
        None, description="The root of all keys.", examples=["file:///var/lib/auditlog/keys"]
    )

    issuers: Annotated[tuple[Issuer, ...], NoDecode, BeforeValidator(_issuers)] = Field(
        (),
        description="Trusted issuers of tokens, a JSON list.",
        examples=[
            '[{"iss": "https://id.example.com/", "audience": "auditlog",'
            ' "jwks": "https://id.example.com/jwks.json", "tenants": ["acme"]}]'
        ],
    )
    issuers_file: Path | None = Field(
        None, description="The same list in a file.", examples=["/etc/auditlog/issuers.json"]
    )

    entry_bytes_max: int = Field(
        128 * 1024, ge=1024, le=1024**2, description="Bytes of one entry, at most.", examples=["131072"]
    )
    bulk_entries_max: int = Field(
        10_000, ge=1, le=100_000, description="Entries of one bulk, at most.", examples=["10000"]
    )
    bulk_bytes_max: int = Field(
        16 * 1024**2,
        ge=1024,
        le=256 * 1024**2,
        description="Bytes of one bulk after decompression, at most.",
        examples=["16777216"],
    )
    depth_max: int = Field(32, ge=4, le=100, description="Nesting of a document, at most.", examples=["32"])
    hot_days: int = Field(90, ge=1, le=3650, description="Days whose rows stay in the database.", examples=["90"])

    log_level: LogLevel = Field("info", description="The least level that is logged.", examples=["info"])
    log_format: LogFormat = Field("json", description="json for machines, console for people.", examples=["console"])

    @model_validator(mode="before")
    @classmethod
    def _read_issuers_file(cls, values: dict[str, Any]) -> dict[str, Any]:
        file = values.get("issuers_file")
        if file and not values.get("issuers"):
            try:
                return {**values, "issuers": Path(file).read_text(encoding="utf-8")}
            except (OSError, UnicodeDecodeError) as exc:
                reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
                raise ValueError(f"issuers_file: can't be read: {reason}") from None
        if file:
            raise ValueError("issuers_file: set this or AUDITLOG_ISSUERS, not both")
        return values

    @classmethod
    def read(cls, **options: Any) -> Self:
        """
        The settings of this process's environment, with `options` of the command line over them.

        Raises:
            SettingsError: naming every variable that is wrong.
        """
        try:
            return cls(**options)
        except ValidationError as exc:
            raise SettingsError([_problem(dict(error)) for error in exc.errors(include_url=False)]) from None

    def require(self, *names: str) -> None:
        """
        Check that the fields `names` are set.

        Raises:
            SettingsError: naming every one that isn't.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise SettingsError([SettingProblem(_variable(name), "must be set", _example(name)) for name in missing])

    def secret(self, name: str) -> str:
        """
        The value of the secret field `name`, in clear.

        Raises:
            SettingsError: it isn't set.
        """
        self.require(name)
        value: SecretStr = getattr(self, name)
        return value.get_secret_value()

    def rows(self) -> list[SettingRow]:
        """Every setting with the value in effect, secrets hidden."""
        return [
            SettingRow(
                _variable(name),
                _shown(getattr(self, name)),
                "environment" if name in self.model_fields_set else "default",
                field.description or "",
            )
            for name, field in type(self).model_fields.items()
        ]

    def warnings(self) -> list[str]:
        """What works and is probably a mistake, or is not as safe as it could be; to be told loudly at the start."""
        return [*self._unknown_variables(), *self._insecure_choices()]

    def _unknown_variables(self) -> Iterator[str]:
        known = {_variable(name) for name in type(self).model_fields} | CLIENT_VARIABLES
        for variable in sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
            yield f"{variable} is no setting" + (f"; did you mean {near[0]}?" if near else "")

    def _insecure_choices(self) -> Iterator[str]:
        for issuer in self.issuers:
            if ANY_TENANT in issuer.tenants:
                yield f"the issuer {issuer.iss} may speak for every tenant, the operator included"
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr) and _is_open_database(value.get_secret_value()):
                yield f"{_variable(name)} reaches a database over the network without sslmode=verify-full"


def _is_open_database(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"} or parts.hostname in _LOCAL_HOSTS:
        return False
    return parse_qs(parts.query).get("sslmode") != ["verify-full"]


def _problem(error: dict[str, Any]) -> SettingProblem:
    text = str(error["msg"]).removeprefix("Value error, ")
    name = str(error["loc"][0]) if error["loc"] else text.partition(":")[0]
    return SettingProblem(_variable(name), text.removeprefix(f"{name}: "), _example(name))


def _example(name: str) -> str:
    return str((Settings.model_fields[name].examples or [""])[0])


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return HIDDEN
        case tuple():
            return json.dumps([issuer.iss for issuer in value])
        case _:
            return str(value)
