"""Masking: what is a secret goes, what only looks like one stays, and what is masked stays masked."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from urllib.parse import quote

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_contracts.errors import InvalidEntry
from audit_contracts.event import EntryIn
from audit_contracts.masking_policy import (
    DEFAULT_MODES,
    MODES,
    OPTIONAL_MODES,
    KeyRule,
    MaskingPolicy,
    PatternRule,
    RuleChoice,
)
from audit_kit.masking import Masker
from audit_kit.masking_cards import is_card_number
from audit_kit.masking_keys import SECRET_KEYS, SecretKeys
from audit_kit.masking_rules import Tripped, rules_of
from audit_kit.masking_walk import PATHS_MAX, SECRETS_MAX, Walk

# Secrets are put together here, so that no scanner takes this file for a leak.
JWT = "ey" + "JhbGciOiJIUzI1NiJ9." + "ey" + "JzdWIiOiIxMjM0In0." + "c2lnbmF0dXJl"
GITHUB = "gh" + "p_" + "a1B2" * 9
VENDOR_TOKENS = [
    GITHUB,
    "al" + "k.acme-1." + "AaIC06-_zCWtKO0VVVcAnw" + "." + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0-_X",
    "github" + "_pat_" + "A1b2_" * 8,
    "gl" + "pat-" + "x1Y2-" * 4,
    "xo" + "xb-" + "123456789012-abcdefABCDEF",
    "xa" + "pp-1-" + "A012345678-abcdef",
    "https://hooks.slack" + ".com/services/" + "T00000000/B00000000/abcdefghijklmnop",
    "sk_" + "live_" + "4eC39HqLyjWDarjtT1",
    "rk_" + "test_" + "4eC39HqLyjWDarjtT1",
    "wh" + "sec_" + "abcdEFGH" * 4,
    "AI" + "za" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6q",
    "GOC" + "SPX-" + "a1B2c3D4e5F6g7H8i9J0k1L2",
    "ya" + "29." + "a0AfH6SMBx" * 4,
    "np" + "m_" + "a1B2c3" * 6,
    "py" + "pi-" + "AgEIcHlwaS5vcmcC" * 4,
    "S" + "G." + "a1B2c3D4e5F6g7H8i9" + "." + "J0k1L2m3N4o5P6q7R8",
    "S" + "K" + "0123456789abcdef" * 2,
    "sk-" + "proj-" + "a1B2c3D4" * 5,
    "h" + "f_" + "abcdefghij" * 3 + "ABCD",
    "dop" + "_v1_" + "0123456789abcdef" * 4,
    "shp" + "at_" + "0123456789abcdef" * 2,
    "hv" + "s." + "CAESIJ" * 6,
    "da" + "pi" + "0123456789abcdef" * 2,
    "dckr" + "_pat_" + "a1B2c3D4" * 4,
    "gl" + "sa_" + "a1B2c3D4" * 4 + "_01234567",
    "123456789" + ":AA" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q",
    "IQoJ" + "b3JpZ2lu" + "X2VjECwaCXVzLWVhc3QtMSJHMEUCIQC3brtCyXce337YfpntHj91jcDg",
]
PEM = f"-----BEGIN {'RSA'} PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nq7BFUpkGp3+LQmlQ\n-----END {'RSA'} PRIVATE KEY-----"
CARDS = [
    "4111" + "111111111111",
    "5555" + "555555554444",
    "2223" + "003122003222",
    "3782" + "82246310005",
    "6011" + "111111111117",
    "3056" + "9309025904",
    "3530" + "111333300000",
    "6212" + "345678901232",
    "4000" + "000000000000006",
]
SSN = "-".join(["536", "90", "4399"])
BASIC = base64.b64encode(b"alice:open sesame").decode()


MASKER = Masker(MaskingPolicy(), b"k" * 32)
EVERYTHING = Masker(
    MaskingPolicy(rules=tuple(RuleChoice(rule, mode) for rule, mode in OPTIONAL_MODES.items())), b"k" * 32
)


def kept(value: Any, masker: Masker = MASKER) -> Any:
    return masker.mask_fields({"metadata": value})[0]["metadata"]


def paths(value: Any, masker: Masker = MASKER) -> list[tuple[str, str]]:
    return masker.mask_fields({"metadata": value})[1]


# --- by key


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "Password",
        "PASSWORD",
        "passWord",
        "pass_word",
        "db-password",
        "dbPassword",
        "DB_PASSWORD",
        "dbpassword",
        "masterUserPassword",
        "user.password",
        "user[password]",
        "password2",
        "password_1",
        "passwords",
        "passwd",
        "pwd",
        "passphrase",
        "secret",
        "clientSecret",
        "client_secret",
        "CLIENT-SECRET",
        "clientsecret",
        "secretString",
        "SecretBinary",
        "SecretAccessKey",
        "secret_access_key",
        "AWSSecretAccessKey",
        "privateKey",
        "private_key",
        "PRIVATE_KEY",
        "privatekey",
        "ssh-private-key",
        "authorization",
        "Authorization",
        "proxy-authorization",
        "cookie",
        "Set-Cookie",
        "cookies",
        "api_key",
        "apiKey",
        "APIKey",
        "apikey",
        "X-API-Key",
        "x_api_key",
        "accessToken",
        "access_token",
        "accesstoken",
        "ACCESS_TOKEN",
        "access_tokens",
        "refreshToken",
        "id_token",
        "IDToken",
        "sessionToken",
        "X-Amz-Security-Token",
        "OAuthToken",
        "token",
        "Token",
        "pin",
        "PIN",
        "userPIN",
        "pinCode",
        "ssn",
        "SSN",
        "cvv",
        "CVV2",
        "cvc",
        "cardNumber",
        "card_number",
        "creditCard",
        "otp",
        "social_security_number",
        "keyMaterial",
    ],
)
def test_a_secrets_key_is_known_in_any_case_style(key: str) -> None:
    for secret in ("hunter2", "x", 1234, 12.5, "[REDACTED] almost"):
        assert kept({key: secret}) == {key: "[REDACTED]"}
    assert paths({"a": [{key: "hunter2"}]}) == [(f"/metadata/a/0/{key}", "key")]


@pytest.mark.parametrize(
    "key",
    [
        "nextToken",
        "clientToken",
        "clientRequestToken",
        "httpTokens",
        "NextContinuationToken",
        "secretId",
        "SecretARN",
        "secretName",
        "SecretVersionId",
        "tokenizer",
        "tokens",
        "keyId",
        "accessKeyId",
        "key",
        "keySpec",
        "publicKey",
        "tag",
        "author",
        "authorizationType",
        "passwordLastUsed",
        "password_policy",
        "passwordResetRequired",
        "opinion",
        "spin",
        "mapping",
        "pinned",
        "shipping",
        "bypass",
        "compass",
        "passenger",
        "signature",
        "cookiesAccepted",
        "resourceArn",
        "credentials",
        "sessionContext",
        "pin_to_top",
        "secretary",
    ],
)
def test_a_key_that_only_resembles_one_is_left_alone(key: str) -> None:
    assert kept({key: "value"}) == {key: "value"}
    assert paths({key: ["value", {"a": 1}]}) == []


def test_null_booleans_and_empty_strings_stay_under_a_secrets_key() -> None:
    value: dict[str, Any] = {
        "forceOverwriteReplicaSecret": False,
        "password": None,
        "secret": True,
        "pin": "",
        "api_key": [],
        "cvv": {},
    }
    assert kept(value) == value
    assert paths(value) == []


def test_every_leaf_under_a_secrets_key_is_masked_and_told_once() -> None:
    value = {"secret": {"a": [1, "x", None, True, {"b": 2.5}], "c": ""}}
    assert kept(value) == {"secret": {"a": ["[REDACTED]", "[REDACTED]", None, True, {"b": "[REDACTED]"}], "c": ""}}
    assert paths(value) == [("/metadata/secret", "key")]


def test_access_key_ids_identify_and_are_kept() -> None:
    for key_id in ("AKIA" + "TFQR7NSC8Q4X20BJ", "ASIA" + "TFQR7NSC7E2ZIBM2"):
        value = {"accessKeyId": key_id, "secret": {"id": key_id}, "text": f"key {key_id} used"}
        assert kept(value) == value


def test_a_sibling_that_names_a_secret_has_its_value_masked() -> None:
    value = {"environment": [{"name": "DB_PASSWORD", "value": "x"}, {"name": "HOME", "value": "/root"}]}
    assert kept(value)["environment"] == [
        {"name": "DB_PASSWORD", "value": "[REDACTED]"},
        {"name": "HOME", "value": "/root"},
    ]
    assert paths({"Tags": [{"Key": "apiKey", "Value": "x"}]}) == [("/metadata/Tags/0/Value", "key")]
    assert paths({"name": "secret-agent", "value": "x"}) == []


# --- by looks


@pytest.mark.parametrize("secret", [JWT, *VENDOR_TOKENS])
@pytest.mark.parametrize("around", ["{}", "before {} after", "a={},b", '"{}"', "<{}>", "é{}é", "x:{}/y", "({})."])
def test_tokens_are_known_by_their_looks(secret: str, around: str) -> None:
    masked = kept({"text": around.format(secret)})["text"]
    assert "[REDACTED]" in masked
    assert secret not in masked
    assert secret[8:20] not in masked


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        f"key: {PEM} end",
        PEM.replace("\n", "\\n"),
        PEM[:60],
        PEM.replace("RSA ", ""),
        PEM.replace("RSA", "OPENSSH"),
        PEM.replace("RSA ", "PGP ").replace("KEY", "KEY BLOCK"),
    ],
)
def test_private_keys_go_whole_even_when_cut_off(text: str) -> None:
    masked = kept({"text": text})["text"]
    assert "MII" not in masked
    assert "q7BF" not in masked
    assert masked.endswith(" end") == text.endswith(" end")


def test_public_keys_and_certificates_stay() -> None:
    value = {
        "a": "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "b": "-----BEGIN CERTIFICATE-----\nMIIC",
    }
    assert kept(value) == value


@pytest.mark.parametrize("number", CARDS)
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "card {}.",
        "{} 12/27",
        "a\n{}\tb",
        "n={}",
        "({})",
        '"{}"',
        "ref 12 {}",
        "card-{}",
        "x%20{}",
        "%3D{}",
        "%B{}^NAME",
        "a,{},b",
    ],
)
def test_card_numbers_keep_their_last_four_digits(number: str, around: str) -> None:
    masked = kept({"text": around.format(number)})["text"]
    assert masked == around.format(f"[LAST4:{number[-4:]}]")


@pytest.mark.parametrize("mark", [" ", "-", "."])
def test_card_numbers_are_known_in_groups(mark: str) -> None:
    visa, amex = CARDS[0], CARDS[3]
    grouped = mark.join(visa[at : at + 4] for at in (0, 4, 8, 12))
    assert kept(f"pay {grouped} now") == "pay [LAST4:1111] now"
    assert kept(f"{grouped} 123 {mark.join((amex[:4], amex[4:10], amex[10:]))}") == "[LAST4:1111] 123 [LAST4:0005]"


def test_a_card_number_that_is_a_number_is_masked() -> None:
    assert kept({"n": [int(CARDS[0]), 1688990082523310002]}) == {"n": ["[LAST4:1111]", 1688990082523310002]}


@pytest.mark.parametrize(
    "text",
    [
        "41111111-1111-1111-1111-111111111111",
        "4111-1111-1111-1111-111111111111",
        "00000000-4111-1111-1111-111111111111",
        "5e04f8b04111111111111111a",
        "arn:aws:sts::123456789012:assumed-role/app/session-" + CARDS[0],
        "aws-go-sdk-1688990082523310002",
        "aws-go-sdk-" + CARDS[0],
        "1688990082523310",
        "2023-07-10T11:42:18.4111111111111111Z",
        "0." + CARDS[0],
        "20230710114218000",
        "4111" + "111111111112",
        "4222" + "222222222",
        "9999" + "999999999995",
        CARDS[0] + "0",
        "x" + CARDS[0],
        CARDS[0] + "x",
        "4006381333931",
    ],
)
def test_digits_of_something_else_are_no_card(text: str) -> None:
    assert kept({"text": text}) == {"text": text}


def test_bearer_and_basic_credentials_are_masked_but_words_are_not() -> None:
    assert kept("sent Bearer abc123def ok") == "sent Bearer [REDACTED] ok"
    assert kept("bearer%20a1b2c3d4e5") == "bearer%20[REDACTED]"
    assert kept(f"with basic {BASIC}") == "with basic [REDACTED]"
    for text in ("Bearer authentication failed", "basic authorization, please", "Basic support1", "bearer of news"):
        assert kept(text) == text


def test_social_security_numbers_are_masked_within_their_bounds() -> None:
    assert kept(f"ssn is {SSN}.") == "ssn is [REDACTED]."
    for text in (
        "000-12-3456",
        "666-12-3456",
        "912-12-3456",
        "536-00-4399",
        "536-90-0000",
        f"1{SSN}",
        f"{SSN}-1",
        f"a-{SSN}",
    ):
        assert kept(text) == text


def test_the_password_of_a_url_is_masked() -> None:
    assert kept("postgres://app:s3cr3t@db:5432/x?y=1") == "postgres://app:[REDACTED]@db:5432/x?y=1"
    for text in ("http://host:8080/a@b", "https://user@host/", "ssh://git@example.org:22/x"):
        assert kept(text) == text


# --- by name in running text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("login password=hunter2 for bob", "login password=[REDACTED] for bob"),
        ("https://x/cb?access_token=abc&next=1&nextToken=n", "https://x/cb?access_token=[REDACTED]&next=1&nextToken=n"),
        ("?token=abc#x", "?token=[REDACTED]"),
        ("?X-Amz-Signature=ab&X-Amz-Security-Token=cd", "?X-Amz-Signature=[REDACTED]&X-Amz-Security-Token=[REDACTED]"),
        ("Authorization: Bearer abc\r\nHost: x", "Authorization: [REDACTED]\r\nHost: x"),
        ('curl -H "Authorization: Digest a=b, c=d" x', 'curl -H "Authorization: [REDACTED]" x'),
        ("Cookie: a=b; c=d\nX: y", "Cookie: [REDACTED]\nX: y"),
        ("Server=db;User Id=app;Password=p@ss!;Port=1", "Server=db;User Id=app;Password=[REDACTED];Port=1"),
        ("mysql --password hunter2 -u root", "mysql --password [REDACTED] -u root"),
        ("run --db-password=x --api-key 'a b' y", "run --db-password=[REDACTED] --api-key '[REDACTED]' y"),
        ("{password=a, user=b}", "{password=[REDACTED], user=b}"),
        ("(secret: abc).", "(secret: [REDACTED])."),
        ("'client_secret' => 'x y'", "'client_secret' => '[REDACTED]'"),
        ('got {"password":"a\\"b","x":1}', 'got {"password":"[REDACTED]","x":1}'),
        ('{\\"pin\\": \\"a\\\\\\"b\\", \\"x\\": 1}', '{\\"pin\\": \\"[REDACTED]\\", \\"x\\": 1}'),
        ('got {"secret": {"a":["b"]}, "x":1}', 'got {"secret": [REDACTED], "x":1}'),
        ("%7B%22password%22%3A%22a%26b%22%2C%22x%22%3A1%7D", "%7B%22password%22%3A%22[REDACTED]%22%2C%22x%22%3A1%7D"),
        ("u=a%26password%3Dx%26y%3D1", "u=a%26password%3D[REDACTED]%26y%3D1"),
        ("password=\u00e9\u00e8 x", "password=[REDACTED] x"),
        ('password="never closed', 'password="[REDACTED]'),
    ],
)
def test_secrets_named_in_text_are_masked(text: str, masked: str) -> None:
    assert kept({"text": text}) == {"text": masked}
    assert paths({"text": text}) == [("/metadata/text", "assignment")]


@pytest.mark.parametrize(
    "text",
    [
        "arn:aws:secretsmanager:us-east-1:1:secret:app-secret-1",
        "SecretDeleteMessage:arn:aws:secretsmanager:us-east-1:1:secret:x:2023-07-10T12:07:00Z:Forced",
        "nextToken=abc&clientToken: x",
        '{"forceOverwriteReplicaSecret":false,"password": null} tail',
        "the password was changed, the secret token expired",
        "password=, secret=&x",
        "opinion: good; tokenizer=bpe; SecretARN=arn",
        "run --no-password --token",
    ],
)
def test_text_that_names_no_secret_stays(text: str) -> None:
    assert kept({"text": text}) == {"text": text}


def test_json_inside_a_string_is_masked_like_json() -> None:
    inner = {"user": "bob", "password": {"a": ["x", 1]}, "n": json.dumps({"apiKey": "deep", "nextToken": "t"})}
    masked = json.loads(kept({"body": " " + json.dumps(inner)})["body"])
    assert masked == {
        "user": "bob",
        "password": {"a": ["[REDACTED]", "[REDACTED]"]},
        "n": '{"apiKey":"[REDACTED]","nextToken":"t"}',
    }
    assert paths({"body": json.dumps(inner)}) == [("/metadata/body", "key")]
    untouched = '{ "nextToken" : "password" }'
    assert kept({"body": untouched, "password": "x"})["body"] is untouched


# --- the fields of an entry


ENTRY: dict[str, Any] = {"user_id": "alice", "action": "user.login", "resource_type": "session", "resource_id": "s1"}


def test_every_text_of_an_entry_is_masked() -> None:
    entry = msgspec.convert(
        ENTRY
        | {
            "resource_id": f"file/{GITHUB}",
            "session_id": JWT,
            "user_agent": f"curl password=x {GITHUB}",
            "details": f"card {CARDS[0]}",
            "before": [SSN],
            "after": f"Bearer {GITHUB}",
            "metadata": {GITHUB: 1, f"x {GITHUB}": {"password": "y"}},
        },
        EntryIn,
    )
    masked, found = MASKER.mask(entry)
    assert GITHUB not in msgspec.json.encode(masked).decode() + str(found)
    assert masked.metadata == {"[REDACTED]": 1, "x [REDACTED]": {"password": "[REDACTED]"}}
    assert masked.details == "card [LAST4:1111]"
    assert set(found) == {
        ("/resource_id", "vendor_token"),
        ("/session_id", "jwt"),
        ("/user_agent", "assignment"),
        ("/user_agent", "vendor_token"),
        ("/details", "card_number"),
        ("/before/0", "us_ssn"),
        ("/after", "credentials"),
        ("/metadata/[REDACTED]", "vendor_token"),
        ("/metadata/x [REDACTED]", "vendor_token"),
        ("/metadata/x [REDACTED]/password", "key"),
    }
    assert MASKER.mask(masked) == (masked, [])


def test_an_entry_without_secrets_is_the_same_object() -> None:
    entry = msgspec.convert(ENTRY | {"metadata": {"nextToken": "x", "at": 1.5}}, EntryIn)
    masked, found = MASKER.mask(entry)
    assert masked is entry
    assert found == []


@pytest.mark.parametrize("field", ["user_id", "subject_id", "submitted_by"])
def test_owners_are_hashed_whole_and_stay_apart(field: str) -> None:
    first, found = MASKER.mask_fields({field: f"card {CARDS[0]}"})
    second, _ = MASKER.mask_fields({field: f"card {CARDS[1]}"})
    assert first[field].startswith("[HASH:")
    assert first != second
    assert first == MASKER.mask_fields({field: f"card {CARDS[0]}"})[0]
    assert first != Masker(MaskingPolicy(), b"l" * 32).mask_fields({field: f"card {CARDS[0]}"})[0]
    assert found == [(f"/{field}", "card_number")]
    assert MASKER.as_kept(field, f"card {CARDS[0]}") == first[field]
    assert MASKER.as_kept(field, "alice") == "alice"


@pytest.mark.parametrize(
    "field", ["action", "resource_type", "source", "request_id", "correlation_id", "trace_id", "producer_id"]
)
def test_a_secret_in_slot_0_is_refused(field: str) -> None:
    with pytest.raises(InvalidEntry) as refused:
        MASKER.mask_fields(ENTRY | {field: GITHUB, "details": "password=x"})
    assert [(fault.pointer, fault.code) for fault in refused.value.violations] == [(f"/{field}", "secret_in_core")]
    assert GITHUB not in str(refused.value.violations)
    assert MASKER.as_kept(field, GITHUB) == GITHUB


@pytest.mark.parametrize(
    "policy",
    [
        {"patterns": [{"name": "all", "pattern": r"[\s\S]"}]},
        {"patterns": [{"name": "own", "pattern": r"auditlog\.change"}]},
        {"keys": [{"key": "user"}]},
    ],
)
def test_a_tenants_own_rules_never_decide_which_actions_are_recorded(policy: dict[str, Any]) -> None:
    masker = Masker(MaskingPolicy.parse(policy), b"k" * 32)
    for action in ("DELETE", "auditlog.change", "user:create"):
        kept, _ = masker.mask_fields(ENTRY | {"action": action})
        assert kept["action"] == action
    with pytest.raises(InvalidEntry):
        masker.mask_fields(ENTRY | {"source": GITHUB})


def test_a_named_rule_that_a_tenant_switched_on_holds_in_slot_0_too() -> None:
    policy = {"rules": [{"rule": "email", "mode": "hash"}], "keys": [{"key": "badge"}]}
    with pytest.raises(InvalidEntry):
        Masker(MaskingPolicy.parse(policy), b"k" * 32).mask_fields(ENTRY | {"source": "ada@example.com"})


def test_a_key_in_full_width_letters_is_the_same_key() -> None:
    wide = "".join(chr(ord(char) + 0xFEE0) for char in "password")
    assert MASKER.mask_fields({"metadata": {wide: "x"}})[0] == {"metadata": {wide: "[REDACTED]"}}


def test_two_masked_keys_never_become_one() -> None:
    keys = [f"gh{'p_'}{digit * 36}" for digit in "123"]
    value = {keys[0]: 0, "[REDACTED]": 1, keys[1]: 2, keys[2]: 3}
    masked = kept(value)
    assert sorted(masked.values()) == [0, 1, 2, 3]
    assert list(masked) == ["[REDACTED]#1", "[REDACTED]", "[REDACTED]#2", "[REDACTED]#3"]
    assert kept(masked) == masked


def test_very_many_places_are_told_by_field() -> None:
    masked, found = MASKER.mask_fields({"metadata": {"a": [SSN] * (PATHS_MAX + 1)}, "details": "pin=1"})
    assert set(masked["metadata"]["a"]) == {"[REDACTED]"}
    assert found == [("/metadata", "us_ssn"), ("/details", "assignment")]
    long_keys = {f"{n}{'k' * 120}": {f"{'x' * 120}": SSN} for n in range(100)}
    assert paths(long_keys) == [("/metadata", "us_ssn")]


def test_an_entry_of_nothing_but_secrets_is_redacted_whole_in_the_end() -> None:
    value = {
        "a": [f"x {SSN}"] * (SECRETS_MAX - 1),
        "b": "pin=12 and pin=34",
        "c": "harmless",
        "d": [1, None, "", "[REDACTED]"],
    }
    masked, found = MASKER.mask_fields({"metadata": value, "details": f"{SSN} " * (SECRETS_MAX + 1)})
    assert set(masked["metadata"]["a"]) == {"x [REDACTED]"}
    assert masked["metadata"]["b"] == masked["metadata"]["c"] == masked["details"] == "[REDACTED]"
    assert masked["metadata"]["d"] == value["d"]
    assert found == [("/metadata", "us_ssn"), ("/metadata", "too_many"), ("/details", "too_many")]
    assert MASKER.mask_fields(masked) == (masked, [])
    assert kept("password=[REDACTED] " * (SECRETS_MAX + 1) + "password=x") == "[REDACTED]"


# --- policies


def policy(**value: Any) -> Masker:
    return Masker(MaskingPolicy.parse(value), b"k" * 32)


def test_a_tenant_can_add_keys_rules_and_patterns() -> None:
    masker = policy(
        keys=[{"key": "badge number", "mode": "hash"}, {"key": "iris-scan"}],
        rules=[
            {"rule": "email", "mode": "hash"},
            {"rule": "phone", "mode": "last4"},
            {"rule": "iban", "mode": "redact"},
        ],
        patterns=[{"name": "employee", "pattern": r"\bEMP-[0-9]{6}\b", "mode": "hash"}],
    )
    value = {
        "badgeNumber": 7,
        "IRIS_SCAN": "x",
        "text": "EMP-123456 a.b@example.org +49 170 1234567 DE89 3704 0044 0532 0130 00",
    }
    masked = kept(value, masker)
    assert masked == {
        "badgeNumber": masker.hash_value("7"),
        "IRIS_SCAN": "[REDACTED]",
        "text": f"{masker.hash_value('EMP-123456')} {masker.hash_value('a.b@example.org')} [LAST4:4567] [REDACTED]",
    }
    assert kept(masked, masker) == masked
    assert kept(value) == value, "the default knows nothing of it"
    assert masker.as_kept("user_id", "a.b@example.org").startswith("[HASH:")


def test_a_pattern_that_eats_everything_still_leaves_what_is_masked() -> None:
    masker = policy(patterns=[{"name": "all", "pattern": "[A-Z]+|a.c"}])
    masked = kept({"t": "ABC abc [REDACTED] x"}, masker)
    assert masked == {"t": "[REDACTED] [REDACTED] [REDACTED] x"}
    assert kept(masked, masker) == masked


def test_the_default_can_be_made_stronger() -> None:
    assert kept(CARDS[0], policy(rules=[{"rule": "card_number", "mode": "redact"}])) == "[REDACTED]"
    assert kept(CARDS[0], policy(rules=[{"rule": "card_number", "mode": "hash"}])) == MASKER.hash_value(CARDS[0])


def test_keys_of_the_default_stay_redacted_whatever_a_tenant_says() -> None:
    assert kept({"password": "hunter2hunter2"}, policy(keys=[{"key": "password", "mode": "last4"}])) == {
        "password": "[REDACTED]"
    }
    assert kept({"my_password": "hunter2hunter2"}, policy(keys=[{"key": "my password", "mode": "last4"}])) == {
        "my_password": "[REDACTED]"
    }


@pytest.mark.parametrize("rule", DEFAULT_MODES)
def test_no_rule_of_the_default_can_be_made_weaker(rule: str) -> None:
    for mode, strength in MODES.items():
        if strength < MODES[DEFAULT_MODES[rule]]:
            with pytest.raises(InvalidEntry):
                MaskingPolicy.parse({"rules": [{"rule": rule, "mode": mode}]})
        else:
            MaskingPolicy.parse({"rules": [{"rule": rule, "mode": mode}]})


@pytest.mark.parametrize(
    ("value", "pointers"),
    [
        ({"keys": [{"key": "!!"}, {"key": "k" * 65}]}, ["/keys/0/key", "/keys/1/key"]),
        ({"keys": [{"key": "k"}] * 101}, ["/keys"]),
        ({"rules": [{"rule": "no", "mode": "hash"}]}, ["/rules/0/rule"]),
        ({"rules": [{"rule": "email", "mode": "hash"}] * 2}, ["/rules"]),
        ({"patterns": [{"name": "a b", "pattern": "x"}]}, ["/patterns/0/name"]),
        ({"patterns": [{"name": "jwt", "pattern": "x"}]}, ["/patterns/0/name"]),
        ({"patterns": [{"name": "a", "pattern": "("}]}, ["/patterns/0/pattern"]),
        ({"patterns": [{"name": "a", "pattern": "(?=a)a"}]}, ["/patterns/0/pattern"]),
        ({"patterns": [{"name": "a", "pattern": "x*"}]}, ["/patterns/0/pattern"]),
        ({"patterns": [{"name": "a", "pattern": "x" * 257}]}, ["/patterns/0/pattern"]),
        ({"patterns": [{"name": "a", "pattern": r"\pL{1000}\pL{1000}"}]}, ["/patterns/0/pattern"]),
        ({"patterns": [{"name": "a", "pattern": "x"}] * 21}, ["/patterns"]),
        ({"keys": [{"key": "a", "mode": "none"}]}, [""]),
        ({"off": True}, [""]),
        ([], [""]),
    ],
)
def test_a_policy_out_of_bounds_is_refused_with_pointers(value: Any, pointers: list[str]) -> None:
    with pytest.raises(InvalidEntry) as refused:
        MaskingPolicy.parse(value)
    assert [fault.pointer for fault in refused.value.violations] == pointers


def test_a_policy_survives_being_stored() -> None:
    stored = MaskingPolicy(
        keys=(KeyRule("a", "hash"),),
        rules=(RuleChoice("email", "redact"),),
        patterns=(PatternRule("p", "x+"),),
    )
    assert MaskingPolicy.parse(orjson.loads(msgspec.json.encode(stored))) == stored
    assert MaskingPolicy.parse({}) == MaskingPolicy()


# --- promises that hold for any entry


secrets = st.one_of(
    st.sampled_from([JWT, PEM, SSN, *VENDOR_TOKENS, *CARDS]),
    st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=36, max_size=60).map(
        lambda tail: "gh" + "s_" + tail
    ),
)
around = st.lists(st.sampled_from([*" \t\n\"'\\{}[]()<>,;:=&?/é€漢", " a ", " Z9 "]), max_size=8).map("".join)
key_styles = st.sampled_from(SECRET_KEYS).flatmap(
    lambda phrase: st.sampled_from(
        [
            phrase.replace(" ", "_"),
            phrase.replace(" ", "-").upper(),
            phrase.title().replace(" ", ""),
            phrase[0] + phrase.title().replace(" ", "")[1:],
            phrase.replace(" ", ""),
            f"my_{phrase.replace(' ', '.')}",
        ]
    )
)
wrappers = st.lists(
    st.sampled_from(
        [
            lambda inner: {"a": inner, "z": 1},
            lambda inner: [None, inner, "nextToken"],
            lambda inner: json.dumps({"body": inner, "é": 2}),
            lambda inner: json.dumps([inner], ensure_ascii=False, indent=1),
        ]
    ),
    max_size=4,
)


def wrapped(value: Any, wraps: list[Any]) -> Any:
    for wrap in wraps:
        value = wrap(value)
    return value


@settings(max_examples=400)
@given(secrets, around, around, wrappers, st.sampled_from(["metadata", "before", "after"]))
def test_no_seeded_secret_survives(secret: str, left: str, right: str, wraps: list[Any], field: str) -> None:
    # A bracket or letter that touches the secret is put off by a space where it could make it something else.
    text = f"{left} {secret} {right}"
    masked, found = MASKER.mask_fields({field: wrapped(text, wraps), "details": text})
    for leaf in (secret, secret[:24], json.dumps(secret)[1:-1], *([secret[10:40]] if len(secret) > 40 else [])):
        if len(leaf) > 8:
            assert leaf not in orjson.dumps(masked).decode() + str(found)
    assert found
    assert MASKER.mask_fields(masked) == (masked, [])


@settings(max_examples=300)
@given(key_styles, st.text(min_size=1, max_size=20), wrappers)
def test_nothing_under_a_secrets_key_survives(key: str, tail: str, wraps: list[Any]) -> None:
    secret = f"hunter2{tail}"
    masked, found = MASKER.mask_fields({"metadata": wrapped({key: secret, "list": [{key: [secret]}]}, wraps)})
    assert "hunter2" not in orjson.dumps(masked).decode()
    assert found
    assert MASKER.mask_fields(masked) == (masked, [])


@settings(max_examples=300)
@given(
    key_styles,
    st.text(st.characters(codec="utf-8", exclude_characters=" \t\r\n\f\v,;&\"'`"), min_size=1, max_size=20),
    st.sampled_from(["{}={}", "?a=1&{}={}&b=2", "{}: {}", "x {}='{}' y", '{{"{}": "{}"}}', "--{} {}", "{} = {}"]),
    wrappers,
    st.booleans(),
)
def test_no_secret_named_in_text_survives(key: str, tail: str, template: str, wraps: list[Any], encoded: bool) -> None:
    secret = f"hunter2{tail}"
    text = template.format(key, json.dumps(secret)[1:-1] if '": "' in template else secret)
    if encoded:
        text = quote(text, safe="")
    masked, found = MASKER.mask_fields({"metadata": wrapped(text, wraps)})
    if encoded and template.startswith("--"):
        return  # An option and its value are told apart by white space only, which is not looked for behind `%20`.
    assert "hunter2" not in orjson.dumps(masked).decode()
    assert found
    assert MASKER.mask_fields(masked)[0] == masked


scraps = st.sampled_from(
    [
        *("password", "secret", "token", "Authorization", "--pin", "bearer ", "Basic ", "null", "x", "A1b2C3d4E5", "é"),
        *(
            "=",
            ": ",
            '"',
            "\\",
            "'",
            "{",
            "}",
            "[",
            "]",
            ",",
            "&",
            "%22",
            "%3A",
            "%3D",
            "%20",
            "\n",
            "\t",
            " ",
            "-",
            "_",
        ),
        *(
            ".",
            "/",
            "://u:",
            "@",
            "4",
            "1111",
            "+49",
            "170",
            "DE89",
            "3704 0044 0532 0130 00",
            "a@b.org",
            "AKIA",
            BASIC,
        ),
        *("-----BEGIN ", "PRIVATE KEY-----", JWT, GITHUB, SSN, CARDS[0], "[REDACTED]", "[LAST4:1111]"),
    ]
)
texts = st.lists(scraps, max_size=12).map("".join)
values = st.recursive(
    texts | st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.just({"name": "my token", "value": "x"}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3) | inner.map(json.dumps),
    max_leaves=8,
)


@settings(max_examples=500)
@given(values)
def test_the_guards_miss_nothing_that_a_rule_finds(value: Any) -> None:
    rules = rules_of(MaskingPolicy(rules=tuple(RuleChoice(rule, mode) for rule, mode in OPTIONAL_MODES.items())))
    walk = Walk(Tripped(rules.every, rules.every, rules.keys), EVERYTHING.stand_in)
    unguarded = walk.value(value, (None, "metadata"))
    assert kept(value, EVERYTHING) == unguarded


@settings(max_examples=500)
@given(values)
def test_masking_again_changes_nothing(value: Any) -> None:
    once = kept(value, EVERYTHING)
    assert EVERYTHING.mask_fields({"metadata": once}) == ({"metadata": once}, [])


@settings(max_examples=300)
@given(st.text(max_size=40) | key_styles)
def test_the_key_guard_knows_every_key_that_the_list_knows(key: str) -> None:
    keys = SecretKeys({"badge number": "hash"})
    if keys.mode_of(key) is not None:
        assert kept({key: "hunter2"}) != {key: "hunter2"}


@given(st.integers(0, 10**20).map(str))
def test_the_check_digit_is_luhns(digits: str) -> None:
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    assert is_card_number(digits) <= (total % 10 == 0)


# --- cost


UNITS = [
    "a",
    "password=",
    "password=x&",
    "password ",
    '"password":"x",',
    "\\",
    'password=\\"',
    "secret:{",
    "4111 ",
    "4111-1111-",
    CARDS[0] + " ",
    "1-",
    "eyJ",
    "eyJaaaaa.aaaaa.",
    PEM[:31],
    "bearer x1y2z3a4 ",
    "basic AAAA",
    "a@a.",
    "a@a.bb ",
    "://u:",
    "http://u:p@",
    "+1 ",
    "DE89 3704",
    "[REDACTED]",
    "%22password%22%3A%22",
    "gh" + "p_" + "a" * 40 + " ",
    "-pin ",
    "[",
    '{"a":',
    "é",
]


@pytest.mark.parametrize("unit", UNITS)
def test_cost_grows_with_the_size_of_a_text_and_no_faster(unit: str) -> None:
    """Eight times the text may take eight times as long; sixty-four times would show a quadratic rule."""

    def seconds(size: int) -> float:
        text = (unit * (size // len(unit) + 1))[:size]
        began = time.process_time()
        EVERYTHING.mask_fields({"details": text, "metadata": {"password": 1, text: text}})
        return time.process_time() - began

    seconds(1_000)
    short, long = min(seconds(16_384) for _ in range(3)), min(seconds(131_072) for _ in range(2))
    assert long < 24 * short + 0.02
