"""What the house check finds, what it lets pass, and that it never repeats a secret."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tools import check_house

# Each is put together here, so that this file passes the check it tests.
SECRETS = {
    "a private key": "-----BEGIN EC " + "PRIVATE KEY-----",
    "an access key id": "key = 'AKIA" + "Z7Q2M5WT3LKJ4XYB'",
    "a secret access key": "aws_secret_access_key = " + "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFy",
    "a token": "eyJhbGciOiJFZERTQSJ9" + ".eyJzdWIiOiJzb21lb25lIn0" + ".c2lnbmF0dXJlc2lnbmF0dXJl",
    "a bearer": "Authorization: Bearer " + "c29tZS1vcGFxdWUtdG9rZW4tdmFsdWU",
    "a forge's token": "ghp" + "_0123456789abcdefghijABCDEFGHIJ012345",
}
PATHS = [
    "cd /" + "work/main",
    "/" + "root/.ssh/config",
    "file:///" + "home/somebody/x",
    "/" + "Users/somebody",
    "/" + "tmp/team/x",
]
HOSTS = [
    "https://" + "pypi" + ".org/simple",
    "files.pythonhosted" + ".org",
    "registry.npmjs" + ".org",
    "static.crates" + ".io",
]


def kinds_in(line: str) -> list[str]:
    return [finding.what for finding in check_house.findings_in_text(PurePosixPath("some/file"), line)]


@pytest.mark.parametrize("line", SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_is_found_and_not_repeated(line: str) -> None:
    (finding,) = check_house.findings_in_text(PurePosixPath("some/file"), f"first\n{line}\n")
    assert str(finding) == "some/file:2: secret"


@pytest.mark.parametrize("line", PATHS)
def test_a_path_of_one_machine_is_found(line: str) -> None:
    assert kinds_in(line) == ["machine path"]


@pytest.mark.parametrize("line", HOSTS)
def test_a_registry_host_is_found(line: str) -> None:
    assert kinds_in(line) == ["registry host"]


@pytest.mark.parametrize(
    "line",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "Authorization: Bearer $TOKEN",
        "/api/v1/work/items",
        "artwork/blue.svg and ~/work/notes",
        "/home/auditlog/data",
        "/var/lib/auditlog",
        "pytest.org",
        "-----BEGIN " + "PUBLIC KEY-----",
    ],
)
def test_what_only_resembles_a_finding_passes(line: str) -> None:
    assert kinds_in(line) == []


def test_an_allowance_covers_the_kind_it_names_and_no_other() -> None:
    secret, host = SECRETS["a bearer"], HOSTS[0]
    allowance = "# house: allow" + "(secret)"
    assert kinds_in(f"{secret}  {allowance}") == []
    assert kinds_in(f"{secret} {host}  {allowance}") == ["registry host"]


def test_an_allowance_that_covers_nothing_is_a_finding() -> None:
    assert kinds_in("nothing here  # house: allow" + "(secret)") == ["allows a secret, but there is none"]
    assert len(kinds_in("nothing here  # house: allow" + "(everything)")) == 1


def test_a_module_names_its_subject_and_has_but_one() -> None:
    long = "x = 1\n" * (check_house.LINES_MAX + 1)
    assert len(list(check_house.findings_in_module(PurePosixPath("libs/kit/audit_kit/utils.py"), ""))) == 1
    assert len(list(check_house.findings_in_module(PurePosixPath("libs/kit/audit_kit/part.py"), long))) == 1
    assert list(check_house.findings_in_module(PurePosixPath("tests/unit/test_long.py"), long)) == []


def test_binary_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(b"\0" + SECRETS["a bearer"].encode())
    (tmp_path / "x.txt").write_text(SECRETS["a bearer"])
    paths = [PurePosixPath("x.gz"), PurePosixPath("x.txt")]
    assert [finding.path.name for finding in check_house.findings(tmp_path, paths)] == ["x.txt"]
