"""The known attacks on JWTs (RFC 8725 and what came after), each against the verifier that every request meets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from audit_contracts.errors import AuditLogError, Forbidden, Unauthenticated
from audit_contracts.principal import DataScope, Permission, Principal, Role
from audit_kit.auth.attempts import NotEntitled, NotValidNow
from audit_kit.auth.issuers import Issuer
from audit_kit.auth.jwks import Jwks, from_memory
from audit_kit.auth.tokens import TOKEN_BYTES_MAX, TokenVerifier
from tests.kit_world import ACME, ManualClock

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey

ISS: Final = "https://id.example.com/"
RSA: Final = generate_rsa(65_537, 2048)
EC: Final = generate_private_key(SECP256R1())
OKP: Final = Ed25519PrivateKey.generate()
STRANGER: Final = generate_rsa(65_537, 2048)
NOTHING: Final[Mapping[str, object]] = {}
SIGNERS: Final[Mapping[str, PrivateKey]] = {"RS256": RSA, "ES256": EC, "EdDSA": OKP}


def public_jwk(key: PrivateKey, kid: str) -> dict[str, Any]:
    match key:
        case RSAPrivateKey():
            jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case EllipticCurvePrivateKey():
            jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "use": "sig", "kid": kid}


def verifier(
    *, tenants: frozenset[str] = frozenset({"acme"}), keys: list[dict[str, Any]] | None = None
) -> TokenVerifier:
    published = [public_jwk(key, alg) for alg, key in SIGNERS.items()] if keys is None else keys
    issuer = Issuer(iss=ISS, audience="auditlog", jwks="https://id.example.com/jwks", tenants=tenants)
    other = Issuer(iss="https://other.example/", audience="auditlog", jwks="https://other.example/", tenants=tenants)
    documents = {
        issuer: json.dumps({"keys": published}).encode(),
        other: json.dumps({"keys": [public_jwk(STRANGER, "RS256")]}).encode(),
    }
    clock = ManualClock()
    return TokenVerifier(
        [(known, Jwks(iss=known.iss, load=from_memory(raw), clock=clock)) for known, raw in documents.items()]
    )


def claims(**changes: object) -> dict[str, Any]:
    now = int(time.time())
    good = {
        "iss": ISS,
        "aud": "auditlog",
        "sub": "ann",
        "iat": now,
        "nbf": now,
        "exp": now + 300,
        "tenant_id": "acme",
        "access_level": "auditor",
        **changes,
    }
    return {name: value for name, value in good.items() if value is not ...}


def part(content: object) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(payload: object, header: Mapping[str, object] | bytes = NOTHING, *, key: PrivateKey = OKP) -> str:
    """A token signed by hand, so that it can be as wrong as no library would make it; `bytes` are the whole header."""
    alg = next(name for name, signer in SIGNERS.items() if type(signer) is type(key))
    whole = header if isinstance(header, bytes) else {"alg": alg, "typ": "at+jwt", "kid": alg, **header}
    signing_input = f"{part(whole)}.{part(payload)}".encode()
    signature = jwt.get_algorithm_by_name(alg).sign(signing_input, key)
    return f"{signing_input.decode()}.{part(signature)}"


async def verify(token: str, **more: Any) -> Principal:
    return (await verifier(**more).verify(token)).principal


async def refusal(token: str, **more: Any) -> AuditLogError:
    with pytest.raises((Unauthenticated, Forbidden)) as caught:
        await verify(token, **more)
    error: AuditLogError = caught.value
    assert error.detail
    return error


@pytest.mark.parametrize("algorithm", sorted(SIGNERS))
@pytest.mark.parametrize("typ", ["at+jwt", "JWT", "jwt", "application/at+jwt"])
async def test_a_good_token_of_each_algorithm_is_its_principal(algorithm: str, typ: str) -> None:
    token = jwt.encode(claims(), SIGNERS[algorithm], algorithm, headers={"kid": algorithm, "typ": typ})
    principal = await verify(token)
    assert (principal.tenant, principal.name, principal.role) == (ACME, f"{ISS}|ann", Role.AUDITOR)
    assert principal.permissions == {Permission.LOGS_READ}
    assert principal.own_entries_of is None


@pytest.mark.parametrize("none", ["none", "None", "NONE", "nOnE", "", " none", "none\u0000"])
@pytest.mark.parametrize("signature", ["", "AA"])
async def test_an_unsigned_token_is_refused_in_any_spelling(none: str, signature: str) -> None:
    token = f"{part({'alg': none, 'typ': 'JWT', 'kid': 'RS256'})}.{part(claims())}.{signature}"
    assert not isinstance(await refusal(token), NotValidNow)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_public_key_is_never_taken_for_a_shared_secret(algorithm: str) -> None:
    """RS→HS confusion: the attacker signs with HMAC, with the published key as the secret, in each of its spellings."""
    public = RSA.public_key()
    spellings = [
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        json.dumps(public_jwk(RSA, "RS256")).encode(),
    ]
    signing_input = f"{part({'alg': algorithm, 'typ': 'JWT', 'kid': 'RS256'})}.{part(claims())}"
    digest = getattr(hashlib, f"sha{algorithm[2:]}")
    for secret in spellings:
        signature = hmac.new(secret, signing_input.encode(), digest).digest()
        assert not isinstance(await refusal(f"{signing_input}.{part(signature)}"), NotValidNow)


@pytest.mark.parametrize("algorithm", ["RS384", "PS256", "ES384", "ES256K", "Ed448", "EdDsa", "rs256", "dir", "A128KW"])
async def test_an_algorithm_off_the_list_is_refused(algorithm: str) -> None:
    error = await refusal(f"{part({'alg': algorithm, 'typ': 'JWT', 'kid': 'RS256'})}.{part(claims())}.AAAA")
    assert error.detail == "the token must be signed with RS256, ES256 or EdDSA"


@pytest.mark.parametrize("algorithm", [None, 7, ["RS256"], {"alg": "RS256"}, True])
async def test_an_algorithm_that_is_no_name_is_refused(algorithm: object) -> None:
    await refusal(f"{part({'alg': algorithm, 'typ': 'JWT', 'kid': 'RS256'})}.{part(claims())}.AAAA")


async def test_a_key_signs_with_its_own_algorithm_alone() -> None:
    await refusal(signed(claims(), {"kid": "RS256"}))


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/etc/passwd",
        "' OR '1'='1",
        "'; DROP TABLE keys; --",
        "https://evil.example/jwks.json",
        "file:///dev/null",
        "RS256\u0000",
        "rs256",
        "",
        "x" * 257,
    ],
)
async def test_a_kid_is_a_name_and_nothing_else(kid: str) -> None:
    assert not isinstance(await refusal(signed(claims(), {"kid": kid})), NotValidNow)


@pytest.mark.parametrize("kid", [7, ["EdDSA"], {"kid": "EdDSA"}, True])
async def test_a_kid_that_is_no_name_is_refused(kid: object) -> None:
    await refusal(signed(claims(), {"kid": kid}))


async def test_without_a_kid_only_an_issuers_only_key_is_tried() -> None:
    token = signed(claims(), b'{"alg": "EdDSA", "typ": "JWT"}')
    await refusal(token)
    assert (await verify(token, keys=[public_jwk(OKP, "one")])).subject == "ann"


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
async def test_a_key_that_a_token_brings_along_is_never_used(name: str) -> None:
    """Signed by a stranger, with every hint at the stranger's key that a header can hold."""
    brought = public_jwk(STRANGER, "RS256")
    values = {"jku": "https://evil.example/", "x5u": "https://evil.example/", "jwk": brought, "x5c": [part(b"cert")]}
    assert not isinstance(await refusal(signed(claims(), {name: values[name]}, key=STRANGER)), NotValidNow)
    known = signed(claims(), {name: values[name], "kid": "RS256"}, key=STRANGER)
    assert not isinstance(await refusal(known), NotValidNow)


@pytest.mark.parametrize("name", ["jku", "jwk"])
async def test_a_hint_at_a_key_does_no_harm_to_a_good_token(name: str) -> None:
    assert (await verify(signed(claims(), {name: "https://evil.example/"}))).subject == "ann"


@pytest.mark.parametrize("crit", [["exp"], ["b64"], ["x"], [], "exp", None])
async def test_a_token_that_demands_an_extension_is_refused(crit: object) -> None:
    await refusal(signed(claims(), {"crit": crit, "b64": True, "x": 1}))


@pytest.mark.parametrize("typ", [..., None, "", "JOSE", "logout+jwt", "id+jwt", "dpop+jwt", 1])
async def test_a_token_of_another_kind_is_refused(typ: object) -> None:
    header = {"alg": "EdDSA", "kid": "EdDSA"} if typ is ... else {"alg": "EdDSA", "kid": "EdDSA", "typ": typ}
    await refusal(signed(claims(), json.dumps(header).encode()))


@pytest.mark.parametrize("claim", ["exp", "iat", "iss", "aud", "sub", "tenant_id", "access_level"])
async def test_a_missing_claim_is_refused(claim: str) -> None:
    await refusal(signed(claims(**{claim: ...})))
    await refusal(signed(claims(**{claim: None})))


async def test_not_before_is_checked_and_may_be_absent() -> None:
    assert (await verify(signed(claims(nbf=...)))).subject == "ann"
    assert isinstance(await refusal(signed(claims(nbf=time.time() + 300))), NotValidNow)


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", ["2100-01-01", "4102444800", True, [], {}])
async def test_a_date_that_is_no_number_is_refused(claim: str, value: object) -> None:
    await refusal(signed(claims(**{claim: value})))


@pytest.mark.parametrize("number", ["1e400", "NaN", "Infinity", "-Infinity"])
async def test_a_number_beyond_numbers_is_refused(number: str) -> None:
    payload = json.dumps(claims(exp=4711)).replace("4711", number)
    await refusal(signed(payload.encode()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": -31}, "the token has expired"),
        ({"nbf": 31 + 5}, "the token isn't valid yet"),
        ({"iat": 31 + 5}, "the token isn't valid yet"),
    ],
)
async def test_beyond_the_leeway_a_date_is_wrong(changes: dict[str, int], reason: str) -> None:
    now = int(time.time())
    error = await refusal(signed(claims(**{name: now + offset for name, offset in changes.items()})))
    assert isinstance(error, NotValidNow)
    assert error.detail == reason
    assert (error.identity.issuer, error.identity.subject, error.identity.tenant) == (ISS, "ann", ACME)


@pytest.mark.parametrize("changes", [{"exp": -20}, {"nbf": 20}, {"iat": 20}])
async def test_within_the_leeway_clocks_may_differ(changes: dict[str, int]) -> None:
    now = int(time.time())
    await verify(signed(claims(**{name: now + offset for name, offset in changes.items()})))


@pytest.mark.parametrize(
    "audience",
    ["", "AUDITLOG", "auditlog ", "other", [], ["other"], [["auditlog"]], ["other", 7, "auditlog"], {"auditlog": 1}, 7],
)
async def test_a_token_for_another_audience_is_refused(audience: object) -> None:
    await refusal(signed(claims(aud=audience)))


async def test_a_list_of_audiences_may_hold_ours() -> None:
    await verify(signed(claims(aud=["https://id.example.com/userinfo", "auditlog"])))


@pytest.mark.parametrize("iss", ["https://id.example.com", "https://evil.example/", "", [ISS], {"iss": ISS}, 7, True])
async def test_an_issuer_that_is_not_trusted_is_refused(iss: object) -> None:
    assert not isinstance(await refusal(signed(claims(iss=iss))), NotValidNow)


async def test_an_issuers_key_signs_for_that_issuer_alone() -> None:
    """The other trusted issuer's key, under the name of this issuer and under its own."""
    await refusal(signed(claims(), {"kid": "RS256"}, key=STRANGER))
    good = signed(claims(iss="https://other.example/"), {"kid": "RS256"}, key=STRANGER)
    assert (await verify(good)).issuer == "https://other.example/"


async def test_a_swapped_tenant_breaks_the_signature() -> None:
    head, _, signature = signed(claims()).split(".")
    await refusal(f"{head}.{part(claims(tenant_id='globex'))}.{signature}")


async def test_an_issuer_speaks_for_its_tenants_alone() -> None:
    error = await refusal(signed(claims(tenant_id="globex")))
    assert isinstance(error, NotEntitled)
    assert error.identity.tenant is None
    await refusal(signed(claims(tenant_id="operator")))
    assert (await verify(signed(claims(tenant_id="globex")), tenants=frozenset({"*"}))).tenant == "globex"


async def test_an_expired_token_for_a_foreign_tenant_names_no_tenant() -> None:
    """What is written into a tenant's log about this attempt would be written by who may not speak for it."""
    error = await refusal(signed(claims(tenant_id="globex", exp=time.time() - 300)))
    assert isinstance(error, NotValidNow)
    assert error.identity.tenant is None


@pytest.mark.parametrize("tenant", ["", "ACME", "acme ", "*", "../acme", "acme\u0000", "a" * 64, 7, ["acme"], True])
async def test_a_tenant_that_is_no_name_is_refused(tenant: object) -> None:
    await refusal(signed(claims(tenant_id=tenant)), tenants=frozenset({"*"}))


@pytest.mark.parametrize("role", ["", "Admin", "root", "admin ", ["admin"], 1, True])
async def test_an_access_level_that_is_none_is_refused(role: object) -> None:
    await refusal(signed(claims(access_level=role)))


@pytest.mark.parametrize("subject", ["", "x" * 257, "a\nb", "a\u0000b", "[HASH:" + "0" * 32 + "]", 7, ["ann"], {}])
async def test_a_subject_that_could_not_be_kept_is_refused(subject: object) -> None:
    await refusal(signed(claims(sub=subject)))


@pytest.mark.parametrize("name", ["sub", "tenant_id", "access_level", "exp", "aud", "iss", "scope"])
async def test_a_claim_that_stands_twice_is_refused(name: str) -> None:
    payload = json.dumps(claims(scope="logs:read"))
    for again in ('"admin"', '"acme"', "9999999999"):
        await refusal(signed(f'{payload[:-1]}, "{name}": {again}}}'.encode()))
        await refusal(signed(f'{{"{name}": {again}, {payload[1:]}'.encode()))


@pytest.mark.parametrize("name", ["alg", "kid", "typ"])
async def test_a_header_that_stands_twice_is_refused(name: str) -> None:
    header = json.dumps({"alg": "EdDSA", "kid": "EdDSA", "typ": "JWT"})
    await refusal(signed(claims(), f'{header[:-1]}, "{name}": "JWT"}}'.encode()))


async def test_a_huge_token_is_refused_before_it_is_read() -> None:
    error = await refusal(signed(claims(padding="x" * TOKEN_BYTES_MAX)))
    assert error.detail == f"the token is longer than {TOKEN_BYTES_MAX} bytes"


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b", "a.b.c.d", "a.b.c", " ", "e30.e30.", "e30.e30.e30", "W10.W10.AA", "\u00e9.a.b", "=.=.="],
)
async def test_what_is_no_token_is_refused(token: str) -> None:
    assert not isinstance(await refusal(token), NotValidNow)


@pytest.mark.parametrize("payload", [b"[]", b"null", b'"sub"', b"{", b"[" * 3000, b"\xff", b""])
async def test_claims_that_are_no_object_are_refused(payload: bytes) -> None:
    await refusal(signed(payload))


async def test_every_byte_of_a_signature_counts() -> None:
    head, payload, signature = signed(claims()).split(".")
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    for place in (0, 31, 32, 63):
        raw[place] ^= 1
        assert not isinstance(await refusal(f"{head}.{payload}.{part(bytes(raw))}"), NotValidNow)
        raw[place] ^= 1
    for stretched in (signature[:-1], signature + "A", signature + "=", signature[:-2] + "~~"):
        assert not isinstance(await refusal(f"{head}.{payload}.{stretched}"), NotValidNow)


async def test_a_scope_narrows_and_never_widens() -> None:
    everything = " ".join(Permission)
    assert (await verify(signed(claims(scope=everything)))).permissions == {Permission.LOGS_READ}
    assert (await verify(signed(claims(scope="logs:write")))).permissions == frozenset()
    assert (await verify(signed(claims(scope="openid profile")))).permissions == frozenset()
    assert (await verify(signed(claims(scope="")))).permissions == frozenset()
    wrong: list[object] = [["logs:read"], 7, {}]
    for scope in wrong:
        await refusal(signed(claims(scope=scope)))


async def test_only_the_operators_admin_may_administer_tenants() -> None:
    for tenant, role, may in (("operator", "admin", True), ("operator", "auditor", False), ("acme", "admin", False)):
        token = signed(claims(tenant_id=tenant, access_level=role))
        principal = await verify(token, tenants=frozenset({"*"}))
        assert principal.may(Permission.TENANTS_ADMINISTER) is may


async def test_a_user_has_its_own_entries_alone() -> None:
    assert (await verify(signed(claims(access_level="user")))).own_entries_of == "ann"


async def test_a_data_scope_narrows_what_is_seen() -> None:
    token = signed(claims(data_scope={"resource_types": ["s3", "iam"], "severities": []}))
    expected = DataScope(resource_types=frozenset({"s3", "iam"}), severities=frozenset(), sources=None)
    assert (await verify(token)).data_scope == expected


@pytest.mark.parametrize(
    "scope", [[], "s3", None, {"resource_types": "s3"}, {"sources": [7]}, {"regions": ["eu"]}, {"severities": None}]
)
async def test_a_data_scope_that_is_not_understood_is_refused(scope: object) -> None:
    await refusal(signed(claims(data_scope=scope)))
