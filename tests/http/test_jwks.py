"""An issuer's keys: from a real server and from files, through rotations and outages."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from audit_contracts.errors import KeyUnavailable, Unauthenticated
from audit_contracts.principal import Principal
from audit_kit.auth.authenticator import Authenticator, opened_authenticator
from audit_kit.auth.issuers import Issuer, parse_issuers
from audit_kit.auth.jwks import (
    DOCUMENT_BYTES_MAX,
    KEYS_MAX,
    REFRESH_AFTER_S,
    REFRESH_APART_S,
    Jwks,
    from_file,
    from_url,
    parse_jwks,
)
from tests.kit_world import ACME, Directory, ManualClock, tenant


def jwk(key: Ed25519PrivateKey, kid: str, **more: object) -> dict[str, Any]:
    return {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


def document(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


class IssuerServer:
    """An issuer that publishes what it is told to, and counts how often it is asked."""

    def __init__(self) -> None:
        self.answer: Response = Response(status_code=500)
        self.asked = 0
        self.url = ""

    async def jwks(self, _request: Request) -> Response:
        self.asked += 1
        return self.answer

    def publish(self, *keys: dict[str, Any]) -> None:
        self.answer = Response(document(*keys), media_type="application/json")

    def issuer(self) -> Issuer:
        return Issuer(iss="https://id/", audience="auditlog", jwks=self.url, tenants=frozenset({"acme"}))


@pytest.fixture
async def server() -> AsyncIterator[IssuerServer]:
    issuer = IssuerServer()
    app = Starlette(routes=[Route("/jwks", issuer.jwks)])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        issuer.url = f"http://127.0.0.1:{listener.getsockname()[1]}/jwks"
        running = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        serving = asyncio.create_task(running.serve(sockets=[listener]))
        yield issuer
        running.should_exit = True
        await serving


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def authenticator(server: IssuerServer, clock: ManualClock) -> AsyncIterator[Authenticator]:
    directory = Directory([tenant(ACME)])
    async with opened_authenticator(issuers=[server.issuer()], directory=directory, clock=clock) as opened:
        yield opened


async def signed_in(authenticator: Authenticator, key: Ed25519PrivateKey, kid: str) -> Principal:
    now = int(time.time())
    claims = {"iss": "https://id/", "aud": "auditlog", "sub": "ann", "iat": now, "exp": now + 300}
    claims |= {"tenant_id": "acme", "access_level": "admin", "jti": str(time.monotonic_ns())}
    token = jwt.encode(claims, key, "EdDSA", headers={"kid": kid})
    return await authenticator.principal(f"Bearer {token}".encode())


async def test_nothing_is_fetched_before_the_first_token(server: IssuerServer, authenticator: Authenticator) -> None:
    assert server.asked == 0
    key = Ed25519PrivateKey.generate()
    server.publish(jwk(key, "one"))
    for _ in range(3):
        assert (await signed_in(authenticator, key, "one")).subject == "ann"
    assert server.asked == 1


async def test_a_rotation_is_followed_as_soon_as_a_new_kid_is_seen(
    server: IssuerServer, authenticator: Authenticator, clock: ManualClock
) -> None:
    old, new = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    server.publish(jwk(old, "old"))
    await signed_in(authenticator, old, "old")
    server.publish(jwk(old, "old"), jwk(new, "new"))
    clock.advance(REFRESH_APART_S)
    await signed_in(authenticator, new, "new")
    await signed_in(authenticator, old, "old")
    assert server.asked == 2


async def test_a_withdrawn_key_is_dead_after_the_refresh(
    server: IssuerServer, authenticator: Authenticator, clock: ManualClock
) -> None:
    old, new = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    server.publish(jwk(old, "old"))
    await signed_in(authenticator, old, "old")
    server.publish(jwk(new, "new"))
    clock.advance(REFRESH_AFTER_S)
    with pytest.raises(Unauthenticated):
        await signed_in(authenticator, old, "old")


async def test_unknown_kids_cannot_make_us_flood_the_issuer(
    server: IssuerServer, authenticator: Authenticator, clock: ManualClock
) -> None:
    known, unknown = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    server.publish(jwk(known, "known"))
    await signed_in(authenticator, known, "known")
    clock.advance(REFRESH_APART_S)
    attempts = [signed_in(authenticator, unknown, f"k{number}") for number in range(100)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unauthenticated}
    assert server.asked == 2


async def test_the_last_good_keys_outlive_the_issuer(
    server: IssuerServer, authenticator: Authenticator, clock: ManualClock
) -> None:
    key = Ed25519PrivateKey.generate()
    server.publish(jwk(key, "one"))
    await signed_in(authenticator, key, "one")
    for server.answer in (Response(status_code=503), Response(b"{"), Response(b'{"keys": []}')):
        clock.advance(REFRESH_AFTER_S)
        await signed_in(authenticator, key, "one")
    assert server.asked == 4


async def test_keys_that_were_never_had_are_no_verdict_on_the_token(
    server: IssuerServer, authenticator: Authenticator, clock: ManualClock
) -> None:
    key = Ed25519PrivateKey.generate()
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            await signed_in(authenticator, key, "one")
    assert server.asked == 1
    server.publish(jwk(key, "one"))
    clock.advance(REFRESH_APART_S)
    assert (await signed_in(authenticator, key, "one")).subject == "ann"


async def test_a_redirect_and_a_document_beyond_the_bound_are_refused(server: IssuerServer, clock: ManualClock) -> None:
    async def long() -> AsyncIterator[bytes]:
        for _ in range(4 * DOCUMENT_BYTES_MAX // 65_536):
            yield b" " * 65_536

    async with httpx.AsyncClient() as client:
        load = from_url(server.url, client)
        server.answer = RedirectResponse(f"{server.url}?again")
        with pytest.raises(ValueError, match="answered 307"):
            await load()
        server.answer = StreamingResponse(long())
        with pytest.raises(ValueError, match="too large"):
            await load()


async def test_keys_may_lie_in_a_file_that_changes(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "keys of ours.json"
    keys = Jwks(iss="https://id/", load=from_file(path.as_uri()), clock=clock)
    with pytest.raises(KeyUnavailable):
        await keys.key("one", "EdDSA")
    path.write_bytes(document(jwk(Ed25519PrivateKey.generate(), "one")))
    clock.advance(REFRESH_APART_S)
    assert (await keys.key("one", "EdDSA")).key_id == "one"
    with pytest.raises(Unauthenticated):
        await keys.key("one", "RS256")
    path.write_bytes(b" " * (DOCUMENT_BYTES_MAX + 1))
    clock.advance(REFRESH_AFTER_S)
    assert (await keys.key("one", "EdDSA")).key_id == "one"


def test_only_signing_keys_of_the_allowed_kinds_are_taken() -> None:
    good = Ed25519PrivateKey.generate()
    rsa = {**RSAAlgorithm.to_jwk(generate_rsa(65_537, 1024).public_key(), as_dict=True), "kid": "short"}
    ec = {**ECAlgorithm.to_jwk(generate_ec(SECP384R1()).public_key(), as_dict=True), "kid": "p384"}
    others = [
        jwk(good, "enc", use="enc"),
        jwk(good, "ops", key_ops=["sign"]),
        jwk(good, "odd ops", key_ops=7),
        jwk(good, "alg", alg="RS256"),
        {**jwk(good, "kid"), "kid": 7},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "no x"},
        {"kty": ["OKP"], "crv": [], "kid": "odd"},
        rsa,
        ec,
    ]
    assert set(parse_jwks(document(*others, jwk(good, "good", use="sig", alg="EdDSA")))) == {"good"}


def test_a_private_key_that_an_issuer_published_by_mistake_is_used_as_the_public_one() -> None:
    private = {**OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate(), as_dict=True), "kid": "oops"}
    assert "d" in private
    key = parse_jwks(document(private))["oops"].key
    assert not isinstance(key, Ed25519PrivateKey)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [1]}', b"[" * 200_000, b"\xff"]
)
def test_what_is_no_key_set_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_jwks(raw)


def test_a_set_of_too_many_keys_is_refused() -> None:
    with pytest.raises(ValueError, match=str(KEYS_MAX)):
        parse_jwks(document(*[{"kid": str(number)} for number in range(KEYS_MAX + 1)]))


GOOD = {"iss": "https://id/", "audience": "auditlog", "jwks": "https://id/jwks", "tenants": ["acme"]}


def test_issuers_are_read_from_json() -> None:
    (issuer,) = parse_issuers(json.dumps([GOOD]))
    assert issuer.may_speak_for("acme")
    assert not issuer.may_speak_for("globex")
    assert not issuer.may_speak_for("*")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tenants": []}, "no tenant"),
        ({"tenants": ["ACME"]}, "tenant id"),
        ({"iss": ""}, "needs an iss"),
        ({"audience": ""}, "audience"),
        ({"jwks": "http://id/jwks"}, "https"),
        ({"jwks": "ftp://id/jwks"}, "https"),
        ({"jwks": "https:"}, "https"),
        ({"jwks": "file://host/keys"}, "file:///absolute/path"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"tenants": "acme"}, "array"),
    ],
)
def test_an_issuer_that_is_not_whole_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_issuers(json.dumps([{**GOOD, **change}]))


def test_an_issuer_stands_once() -> None:
    with pytest.raises(ValueError, match="same iss"):
        parse_issuers(json.dumps([GOOD, GOOD]))
