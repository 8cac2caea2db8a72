"""Settings are read once, wrong ones reported together, secrets never shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from audit_kit.settings import HIDDEN, Settings, SettingsError

ISSUER = {"iss": "https://id/", "audience": "auditlog", "jwks": "https://id/jwks", "tenants": ["acme"]}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("AUDITLOG_"):
            monkeypatch.delenv(name)


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> SettingsError:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        Settings.read()
    return caught.value


def test_without_any_variable_everything_has_its_default() -> None:
    settings = Settings.read()
    assert (settings.host, settings.port, settings.entry_bytes_max) == ("127.0.0.1", 8080, 131_072)
    assert (settings.bulk_entries_max, settings.bulk_bytes_max, settings.depth_max) == (10_000, 16_777_216, 32)
    assert settings.warnings() == []
    assert {row.source for row in settings.rows()} == {"default"}


def test_every_wrong_variable_is_reported_at_once_with_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(
        monkeypatch,
        AUDITLOG_PORT="eighty",
        AUDITLOG_LOG_FORMAT="xml",
        AUDITLOG_DEPTH_MAX="2",
        AUDITLOG_DATABASE_URL="mysql://db/auditlog",
        AUDITLOG_KEY_STORE_URL="keys",
        AUDITLOG_ISSUERS='[{"iss": "https://id/"}]',
    )
    assert {problem.variable for problem in error.problems} == {
        "AUDITLOG_PORT",
        "AUDITLOG_LOG_FORMAT",
        "AUDITLOG_DEPTH_MAX",
        "AUDITLOG_DATABASE_URL",
        "AUDITLOG_KEY_STORE_URL",
        "AUDITLOG_ISSUERS",
    }
    lines = str(error).splitlines()
    assert len(lines) == 6
    assert all("(for example: " in line for line in lines)


def test_a_wrong_secret_is_not_repeated_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hunter2" not in str(refused(monkeypatch, AUDITLOG_DATABASE_URL="mysql://ann:hunter2@db/auditlog"))


def test_secrets_are_hidden_wherever_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITLOG_INGEST_DATABASE_URL", "postgresql://ingest:hunter2@localhost/auditlog")
    settings = Settings.read()
    assert settings.ingest_database_url is not None
    assert settings.ingest_database_url.get_secret_value().endswith("@localhost/auditlog")
    shown = {row.variable: (row.value, row.source) for row in settings.rows()}
    assert shown["AUDITLOG_INGEST_DATABASE_URL"] == (HIDDEN, "environment")
    assert shown["AUDITLOG_QUERY_DATABASE_URL"] == ("", "default")
    assert "hunter2" not in f"{settings!r} {settings} {settings.rows()}"


def test_each_setting_says_what_it_is_for() -> None:
    for row in Settings.read().rows():
        assert row.description.endswith("."), row.variable
    for name, field in Settings.model_fields.items():
        assert field.examples, name


def test_issuers_come_from_the_variable_or_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "issuers.json"
    file.write_text(json.dumps([ISSUER]))
    monkeypatch.setenv("AUDITLOG_ISSUERS_FILE", str(file))
    from_file = Settings.read().issuers
    monkeypatch.delenv("AUDITLOG_ISSUERS_FILE")
    monkeypatch.setenv("AUDITLOG_ISSUERS", json.dumps([ISSUER]))
    settings = Settings.read()
    assert from_file == settings.issuers
    assert [row.value for row in settings.rows() if row.variable == "AUDITLOG_ISSUERS"] == ['["https://id/"]']


def test_issuers_in_both_places_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = refused(monkeypatch, AUDITLOG_ISSUERS=json.dumps([ISSUER]), AUDITLOG_ISSUERS_FILE=str(tmp_path))
    assert [problem.variable for problem in error.problems] == ["AUDITLOG_ISSUERS_FILE"]
    assert "not both" in str(error)


@pytest.mark.parametrize("content", [None, b"\xff", b"[]x"])
def test_a_file_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "issuers.json"
    if content is not None:
        file.write_bytes(content)
    error = refused(monkeypatch, AUDITLOG_ISSUERS_FILE=str(file))
    assert error.problems[0].variable.startswith("AUDITLOG_ISSUERS")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITLOG_PORT", "")
    assert Settings.read().port == 8080


def test_what_is_required_and_missing_is_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITLOG_KEY_STORE_URL", "file:///keys")
    settings = Settings.read()
    settings.require("key_store_url")
    with pytest.raises(SettingsError) as caught:
        settings.require("ingest_database_url", "key_store_url", "query_database_url")
    assert [problem.variable for problem in caught.value.problems] == [
        "AUDITLOG_INGEST_DATABASE_URL",
        "AUDITLOG_QUERY_DATABASE_URL",
    ]


def test_a_variable_that_is_no_setting_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITLOG_LOG_LEVLE", "debug")
    monkeypatch.setenv("AUDITLOG_ZZZ", "1")
    monkeypatch.setenv("AUDITLOG_TOKEN", "of the client")
    assert Settings.read().warnings() == [
        "AUDITLOG_LOG_LEVLE is no setting; did you mean AUDITLOG_LOG_LEVEL?",
        "AUDITLOG_ZZZ is no setting",
    ]


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("postgresql://db.internal/auditlog", True),
        ("postgresql://db.internal/auditlog?sslmode=require", True),
        ("postgresql://db.internal/auditlog?sslmode=verify-full", False),
        ("postgresql://localhost/auditlog", False),
        ("postgresql:///auditlog?host=/run/postgresql", False),
    ],
)
def test_a_database_over_the_network_in_the_clear_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, url: str, warned: bool
) -> None:
    monkeypatch.setenv("AUDITLOG_QUERY_DATABASE_URL", url)
    monkeypatch.setenv("AUDITLOG_EVENT_QUEUE_URL", "sqs://queue")
    assert any("AUDITLOG_QUERY_DATABASE_URL" in warning for warning in Settings.read().warnings()) is warned


def test_an_issuer_for_every_tenant_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITLOG_ISSUERS", json.dumps([{**ISSUER, "tenants": ["*"]}]))
    (warning,) = Settings.read().warnings()
    assert "every tenant" in warning
