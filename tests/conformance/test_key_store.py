"""What every key store promises, and what the one in a file demands of its file."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_backends.key_store.file import FileKeyStore, KeyFileUnusable
from audit_contracts.errors import SealBroken
from audit_contracts.ports.key_store import KeyStore
from audit_contracts.principal import TenantId
from tests.backends import KEY_STORES

ACME, GLOBEX = TenantId("acme"), TenantId("globex")


@pytest.fixture(params=KEY_STORES)
async def key_store(request: pytest.FixtureRequest) -> AsyncIterator[KeyStore]:
    async with KEY_STORES[request.param]() as opened:
        yield opened


async def test_a_wrapped_key_opens_as_the_same_key(key_store: KeyStore) -> None:
    key = await key_store.new_data_key(ACME, "transport")
    assert len(key.plain) == 32
    assert key.plain not in key.wrapped
    assert await key_store.unwrap(ACME, "transport", key.wrapped) == key.plain


async def test_no_two_keys_are_the_same(key_store: KeyStore) -> None:
    keys = [await key_store.new_data_key(ACME, "transport") for _ in range(50)]
    assert len({key.plain for key in keys}) == len({key.wrapped for key in keys}) == 50


@pytest.mark.parametrize(("tenant", "purpose"), [(GLOBEX, "transport"), (ACME, "owner")])
async def test_a_key_of_another_tenant_or_purpose_stays_closed(
    key_store: KeyStore, tenant: TenantId, purpose: str
) -> None:
    key = await key_store.new_data_key(ACME, "transport")
    with pytest.raises(SealBroken):
        await key_store.unwrap(tenant, purpose, key.wrapped)


async def test_a_wrapped_key_with_any_byte_altered_or_cut_stays_closed(key_store: KeyStore) -> None:
    wrapped = (await key_store.new_data_key(ACME, "transport")).wrapped
    altered = [wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :] for at in range(len(wrapped))]
    for broken in (*altered, *(wrapped[:length] for length in range(len(wrapped))), wrapped + b"\0"):
        with pytest.raises(SealBroken):
            await key_store.unwrap(ACME, "transport", broken)


async def test_no_key_shows_in_a_repr(key_store: KeyStore) -> None:
    key = await key_store.new_data_key(ACME, "transport")
    assert repr(key) == "DataKey(…)"
    assert key.plain.hex() not in repr(key_store)


async def test_another_root_says_that_it_is_another(tmp_path: Path) -> None:
    key = await FileKeyStore.create(tmp_path / "one").new_data_key(ACME, "transport")
    other = FileKeyStore.create(tmp_path / "two")
    with pytest.raises(SealBroken, match="another root key"):
        await other.unwrap(ACME, "transport", key.wrapped)


async def test_the_same_file_opens_what_it_wrapped_before_a_restart(tmp_path: Path) -> None:
    key = await FileKeyStore.create(tmp_path / "root.key").new_data_key(ACME, "transport")
    for reopened in (FileKeyStore.open(tmp_path / "root.key"), FileKeyStore.create(tmp_path / "root.key")):
        assert await reopened.unwrap(ACME, "transport", key.wrapped) == key.plain


def test_a_root_key_is_made_for_its_owner_alone_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        FileKeyStore.create(tmp_path / "root.key")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "root.key").stat().st_mode) == 0o600
    assert len((tmp_path / "root.key").read_bytes()) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["root.key"]


def test_many_that_create_at_once_get_one_root(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(FileKeyStore.create, [tmp_path / "root.key"] * 32))
    assert len({repr(store) for store in stores}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["root.key"]


def test_a_root_that_is_not_there_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(KeyFileUnusable, match="No such file"):
        FileKeyStore.open(tmp_path / "root.key")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_root_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "root.key"
    FileKeyStore.create(path)
    path.chmod(mode)
    with pytest.raises(KeyFileUnusable, match="chmod 600"):
        FileKeyStore.open(path)
    with pytest.raises(KeyFileUnusable, match="chmod 600"):
        FileKeyStore.create(path)


def test_a_root_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "root.key"
    FileKeyStore.create(path)
    if os.geteuid() == 0:
        os.chown(path, 12_345, 12_345)
    else:
        # Only root can give a file away; anybody can be somebody else.
        monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(KeyFileUnusable, match="another user"):
        FileKeyStore.open(path)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_root_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "root.key"
    path.write_bytes(bytes(length))
    path.chmod(0o600)
    with pytest.raises(KeyFileUnusable, match="32 bytes"):
        FileKeyStore.open(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(KeyFileUnusable):
            FileKeyStore.open(path)


@given(root=st.binary(min_size=32, max_size=32))
def test_a_repr_never_shows_the_root(root: bytes) -> None:
    shown = repr(FileKeyStore(root))
    assert root.hex() not in shown
    assert repr(root) not in shown
