"""Which server a client's verb speaks to, and as whom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit_allinone.failures import Failure
from audit_allinone.profile import Profile, read_profile, target, write_profile

KEPT = Profile(url="http://127.0.0.1:1", tenant="acme", token="kept")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AUDITLOG_URL", "AUDITLOG_TOKEN", "AUDITLOG_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "profile.json"
    monkeypatch.setenv("AUDITLOG_PROFILE", str(path))
    return path


def test_the_profile_is_enough(path: Path) -> None:
    write_profile(path, KEPT)
    assert (target(None, None).url, target(None, None).token) == (KEPT.url, "kept")
    assert path.stat().st_mode & 0o777 == 0o600


def test_options_come_before_variables_before_the_profile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(path, KEPT)
    monkeypatch.setenv("AUDITLOG_TOKEN", "variable")
    assert target(None, None).token == "variable"
    assert target(None, "option").token == "option"
    monkeypatch.setenv("AUDITLOG_URL", "http://other/")
    assert target(None, None).url == "http://other"
    assert target("http://third", None).url == "http://third"


def test_the_data_folder_holds_a_profile_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUDITLOG_PROFILE")
    monkeypatch.setenv("AUDITLOG_DATA_DIR", str(path.parent))
    write_profile(path, KEPT)
    assert target(None, None).token == "kept"


def test_a_kept_token_goes_to_no_other_server(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(path, KEPT)
    with pytest.raises(Failure, match="no token for http://other is known"):
        target("http://other", None)
    monkeypatch.setenv("AUDITLOG_URL", "http://other")
    with pytest.raises(Failure, match="no token for http://other is known"):
        target(None, None)


def test_what_is_no_profile_is_named(path: Path) -> None:
    path.write_text(json.dumps({"url": 1}))
    with pytest.raises(Failure, match=rf"{path} is not a profile"):
        target(None, None)
    assert read_profile(path.with_name("none.json")) is None


def test_a_token_shows_in_no_representation(path: Path) -> None:
    write_profile(path, KEPT)
    assert "kept" not in repr(read_profile(path)) + repr(target(None, None))
