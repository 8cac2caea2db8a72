"""Credentials that were just verified are cheap, and never good for longer than they should be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_contracts.errors import Forbidden, RateLimited, Unauthenticated
from audit_contracts.ports.tenant_directory import ApiKey
from audit_contracts.principal import DataScope, Permission, Role
from audit_kit.auth import authenticator as subject
from audit_kit.auth.api_keys import PresentedKey, new_api_key, parse_api_key
from audit_kit.auth.attempts import NotValidNow
from audit_kit.auth.authenticator import Authenticator, opened_authenticator
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.directory import UNKNOWN_BURST, CachedDirectory
from audit_kit.metrics import REGISTRY
from tests.kit_world import ACME, GLOBEX, Directory, ManualClock, tenant


def stored(presented: PresentedKey, **changes: Any) -> ApiKey:
    key = ApiKey(
        tenant=presented.tenant,
        key_id=presented.key_id,
        name="a collector",
        role=Role.PRODUCER,
        scope=None,
        data_scope=DataScope(),
        secret_hash=presented.secret_hash,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        created_by="ann",
        expires_at=None,
        revoked_at=None,
        last_used_at=None,
    )
    return msgspec.structs.replace(key, **changes)


class Setting:
    """An authenticator with an issuer of its own and a key of acme's."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.issuer = DevIssuer(Ed25519PrivateKey.generate())
        self.key = new_api_key(ACME, uuid4())
        self.directory = Directory([tenant(ACME)], [stored(self.key)])
        self.cached = CachedDirectory(self.directory, clock=self.clock)

    def change(self, **changes: Any) -> None:
        self.directory.keys[ACME, self.key.key_id] = stored(self.key, **changes)

    def token(self, **more: Any) -> bytes:
        now_s = self.clock.now_us() // 1_000_000
        token = self.issuer.mint(tenant=ACME, subject="ann", role=Role.ADMIN, now_s=now_s, **more)
        return f"Bearer {token}".encode()

    @property
    def key_header(self) -> bytes:
        return f"Bearer {self.key.text}".encode()


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
async def authenticator(setting: Setting) -> AsyncIterator[Authenticator]:
    async with opened_authenticator(
        issuers=[], own=[setting.issuer.trusted(setting.clock)], directory=setting.cached, clock=setting.clock
    ) as opened:
        yield opened


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("auditlog_authentications_total", {"kind": "jwt", "outcome": outcome}) or 0.0


async def test_a_token_is_verified_once_a_minute(authenticator: Authenticator, setting: Setting) -> None:
    verified, cached = counted("verified"), counted("cached")
    header = setting.token()
    for seconds, expected in ((0, (1, 0)), (59, (1, 1)), (0.9, (1, 2)), (0.1, (2, 2)), (30, (2, 3))):
        setting.clock.advance(seconds)
        await authenticator.principal(header)
        assert (counted("verified") - verified, counted("cached") - cached) == expected


async def test_a_token_is_never_remembered_beyond_its_end(authenticator: Authenticator, setting: Setting) -> None:
    verified = counted("verified")
    header = setting.token(ttl_s=10)
    await authenticator.principal(header)
    setting.clock.advance(10)
    await authenticator.principal(header)
    assert counted("verified") - verified == 2, "PyJWT was asked again, with its own clock and leeway"


async def test_a_refused_token_is_not_remembered(authenticator: Authenticator, setting: Setting) -> None:
    for _ in range(2):
        with pytest.raises(NotValidNow):
            await authenticator.principal(setting.token(ttl_s=-60))


async def test_what_is_remembered_is_bounded(
    authenticator: Authenticator, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "CACHED_TOKENS_MAX", 2)
    first, second, third = (setting.token(ttl_s=ttl_s) for ttl_s in (100, 200, 300))
    for header in (first, second, first, third):
        await authenticator.principal(header)
    verified = counted("verified")
    for header in (first, third):
        await authenticator.principal(header)
    assert counted("verified") == verified
    await authenticator.principal(second)
    assert counted("verified") == verified + 1, "the one used least recently had to go"


async def test_an_api_key_is_its_principal(authenticator: Authenticator, setting: Setting) -> None:
    principal = await authenticator.principal(setting.key_header)
    assert (principal.tenant, principal.issuer, principal.subject) == (ACME, "key", str(setting.key.key_id))
    assert principal.permissions == {Permission.LOGS_WRITE}


async def test_an_api_keys_scope_narrows_its_role(authenticator: Authenticator, setting: Setting) -> None:
    setting.change(role=Role.ADMIN, scope=frozenset({Permission.LOGS_READ, Permission.TENANTS_ADMINISTER}))
    assert (await authenticator.principal(setting.key_header)).permissions == {Permission.LOGS_READ}


async def test_a_revoked_key_is_dead_within_30_seconds(authenticator: Authenticator, setting: Setting) -> None:
    await authenticator.principal(setting.key_header)
    setting.change(revoked_at=datetime.now(UTC))
    setting.clock.advance(30)
    with pytest.raises(NotValidNow, match="revoked") as caught:
        await authenticator.principal(setting.key_header)
    assert (caught.value.identity.subject, caught.value.identity.tenant) == (str(setting.key.key_id), ACME)


async def test_a_key_revoked_in_this_process_is_dead_at_once(authenticator: Authenticator, setting: Setting) -> None:
    await authenticator.principal(setting.key_header)
    setting.change(revoked_at=datetime.now(UTC))
    setting.cached.forget(ACME)
    with pytest.raises(NotValidNow, match="revoked"):
        await authenticator.principal(setting.key_header)


async def test_an_expired_key_is_refused_on_the_second(authenticator: Authenticator, setting: Setting) -> None:
    end = datetime.fromtimestamp(setting.clock.now_us() / 1_000_000, UTC) + timedelta(seconds=5)
    setting.change(expires_at=end)
    await authenticator.principal(setting.key_header)
    setting.clock.advance(5)
    with pytest.raises(NotValidNow, match="expired"):
        await authenticator.principal(setting.key_header)


async def test_a_wrong_secret_and_an_unknown_key_are_told_alike(authenticator: Authenticator, setting: Setting) -> None:
    wrong = PresentedKey(ACME, setting.key.key_id, b"\x00" * 32)
    unknown, foreign = new_api_key(ACME, uuid4()), PresentedKey(GLOBEX, setting.key.key_id, setting.key.secret)
    details = set()
    for presented in (wrong, unknown, foreign):
        with pytest.raises(Unauthenticated) as caught:
            await authenticator.principal(f"Bearer {presented.text}".encode())
        assert not isinstance(caught.value, NotValidNow)
        details.add(caught.value.detail)
    assert len(details) == 1


async def test_a_key_has_one_text(setting: Setting) -> None:
    text = setting.key.text
    assert parse_api_key(text) == setting.key
    moved = text.replace("alk.acme.", "alk.ACME."), text.replace("alk.acme.", "alk.."), text.replace(".", "/")
    for spoiled in (text.upper(), f"{text}A", text[:-1], f"{text}=", f"{text}\n", *moved):
        with pytest.raises(Unauthenticated):
            parse_api_key(spoiled)


async def test_the_spare_bits_of_a_keys_text_must_be_zero(setting: Setting) -> None:
    text = PresentedKey(ACME, UUID(int=0), b"\x00" * 32).text
    assert parse_api_key(text).text == text
    for spoiled in (f"{text[:-1]}B", text.replace("A.A", "B.A", 1)):
        with pytest.raises(Unauthenticated):
            parse_api_key(spoiled)


async def test_a_keys_secret_is_in_no_repr(setting: Setting) -> None:
    secret = setting.key.text.rpartition(".")[2]
    shown = f"{setting.key!r} {setting.directory.keys}"
    assert secret not in shown
    assert repr(setting.key.secret) not in shown
    assert repr(setting.key.secret_hash) not in shown


async def test_guessing_keys_does_not_load_the_database(authenticator: Authenticator, setting: Setting) -> None:
    await authenticator.principal(setting.key_header)
    before = setting.directory.reads
    outcomes = []
    for _ in range(10 * UNKNOWN_BURST):
        with pytest.raises((Unauthenticated, RateLimited)) as caught:
            await authenticator.principal(f"Bearer {new_api_key(ACME, uuid4()).text}".encode())
        outcomes.append(type(caught.value))
    assert setting.directory.reads - before == UNKNOWN_BURST
    assert outcomes.count(RateLimited) == 9 * UNKNOWN_BURST
    setting.clock.advance(25)
    assert (await authenticator.principal(setting.key_header)).tenant == ACME, "a key in use still works"


async def test_a_key_of_a_user_sees_its_own_entries_alone(authenticator: Authenticator, setting: Setting) -> None:
    setting.change(role=Role.USER)
    principal = await authenticator.principal(setting.key_header)
    assert principal.own_entries_of == str(setting.key.key_id)


async def test_a_forbidden_credential_is_counted_as_such(setting: Setting) -> None:
    issuer, keys = setting.issuer.trusted(setting.clock)
    narrow = msgspec.structs.replace(issuer, tenants=frozenset({"globex"}))
    before = counted("forbidden")
    async with opened_authenticator(
        issuers=[], own=[(narrow, keys)], directory=setting.cached, clock=setting.clock
    ) as authenticator:
        with pytest.raises(Forbidden):
            await authenticator.principal(setting.token())
    assert counted("forbidden") == before + 1
