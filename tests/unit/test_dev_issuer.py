"""The key of development: made once, read by its owner alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from audit_contracts.principal import Permission, Role
from audit_kit.auth.dev_issuer import FILE_NAME, DevIssuer
from audit_kit.auth.tokens import TokenVerifier
from tests.kit_world import ACME, ManualClock


async def test_a_token_of_one_start_is_good_after_the_next(tmp_path: Path) -> None:
    clock = ManualClock()
    first, second = DevIssuer.load(tmp_path), DevIssuer.load(tmp_path)
    token = first.mint(
        tenant=ACME,
        subject="ann",
        role=Role.ADMIN,
        now_s=clock.now_us() // 1_000_000,
        scope=[Permission.LOGS_READ],
    )
    principal = (await TokenVerifier([second.trusted(clock)]).verify(token)).principal
    assert (principal.tenant, principal.subject, principal.role) == (ACME, "ann", Role.ADMIN)
    assert principal.permissions == {Permission.LOGS_READ}


def test_its_key_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    DevIssuer.load(tmp_path)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    DevIssuer.load(tmp_path)
    (tmp_path / FILE_NAME).chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        DevIssuer.load(tmp_path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    key = generate_private_key(65_537, 2048)
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(ValueError, match="Ed25519"):
        DevIssuer.load(tmp_path)


def test_the_public_document_holds_no_private_key(tmp_path: Path) -> None:
    assert b'"d"' not in DevIssuer.load(tmp_path).jwks()
