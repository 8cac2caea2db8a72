"""
Which keys hold secrets: a key in any case style is split into words, and its last words are compared with a list.

`nextToken`, `secretId`, `SecretARN` and `tokenizer` are none; `client_secret`, `clientSecret`, `X-Client-Secret` and
`clientsecret2` are one and the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final

from audit_contracts.masking_policy import MODES, Mode

SECRET_KEYS: Final = (
    *(
        "password",
        "pass word",
        "passwd",
        "pwd",
        "passphrase",
        "passcode",
        "password hash",
        "password confirmation",
        "psk",
    ),
    *("secret", "secret string", "secret binary", "secret value", "secret text", "secret key", "secret access key"),
    *("private key", "private key pem", "key material", "api key", "app key", "application key", "auth key"),
    *("shared key", "pre shared key", "shared access key", "account key", "signing key", "sas key", "psk"),
    *("access token", "refresh token", "id token", "session token", "security token", "bearer token", "auth token"),
    *("connection string", "bearer"),
    *("oauth token", "api token", "bot token", "csrf token", "xsrf token", "reset token", "identity token"),
    *("login token", "jwt token", "service token", "registration token", "sas token", "web token", "jwt"),
    *("authorization", "authorization header", "auth header", "authorization code", "client assertion"),
    *("cookie", "saml response", "saml assertion", "security answer", "amz signature", "kubeconfig"),
    *("pin", "pin code", "pin number", "otp", "totp", "mfa code", "one time code", "verification code"),
    *("recovery code", "backup code", "sms code", "cvv", "cvc", "csc", "cvv code", "cvc code", "card security code"),
    *("card number", "card num", "credit card", "primary account number", "track data"),
    *("ssn", "social security", "social security number", "social security no"),
)
"""Sequences of words; a key that ends in one is a secret's, and so is its plural in -s where it ends in a long word."""

SECRET_WHOLE_KEYS: Final = ("token", "pass", "user pass", "db pass", "smtp pass", "sig")
"""Keys that are a secret's only when they stand alone: their last word is too common."""

_GLUED_ENDS: Final = ("password", "passwd", "passphrase", "secret", "apikey", "secretkey", "privatekey", "accesstoken")
"""A word that ends like this needs no list: `dbpassword`, `clientsecret`."""

_PLURALS: Final = frozenset({"password", "passphrase", "key", "token", "cookie", "code"})

KEY_TAIL_CHARS: Final = 96
"""Only so much of a key's end is looked at; no listed sequence is half as long."""

# What a key may hold between letters that count, written as JSON.
_GAP: Final = r'(?:[^A-Za-z"\\]|\\(?:u[0-9a-f]{4}|.))*'
_WORDS_MAX: Final = 6
_LABELS: Final = ("name", "key", "Name", "Key")
_LABELLED: Final = ("value", "Value")
_CACHED_KEYS_MAX: Final = 8_192
# Runs on at most 96 characters, and its alternatives can't match one text in two ways.
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words_of(key: str) -> list[str]:
    """The words of a key's end in lower case, whatever its style: `awsSECRETAccessKey2` is aws, secret, access, key."""
    tail = key[-KEY_TAIL_CHARS:]
    return [word.lower() for word in _WORD.findall(tail if tail.isascii() else unicodedata.normalize("NFKC", tail))]


class SecretKeys:
    """The default list with a tenant's additions. Answers are remembered, since real keys repeat."""

    def __init__(self, extra: Mapping[str, Mode]) -> None:
        """`extra` maps a key, in any style, to the mode of what stands under it."""
        # Sequences are compared as one glued word, so that `passWord` and `accesstoken` match as well.
        self._tails: dict[str, Mode] = {}
        for phrase in SECRET_KEYS:
            words = words_of(phrase)
            self._tails["".join(words)] = "redact"
            if words[-1] in _PLURALS:
                self._tails["".join(words) + "s"] = "redact"
        self._whole: dict[str, Mode] = {"".join(words_of(phrase)): "redact" for phrase in SECRET_WHOLE_KEYS}
        for phrase, mode in extra.items():
            glued = "".join(words_of(phrase))
            known = self._tails.get(glued)
            if known is None or MODES[known] < MODES[mode]:
                self._tails[glued] = mode
        self._spelled = {
            "".join(words): "[_ .-]?".join(words) for words in map(words_of, [*SECRET_KEYS, *SECRET_WHOLE_KEYS, *extra])
        }
        self._spelled |= {f"{glued}s": f"{spelled}s" for glued, spelled in self._spelled.items()}
        self._known: dict[str, Mode | None] = {}

    def mode_of(self, key: str) -> Mode | None:
        """How what stands under `key` is masked; None where the key tells of no secret."""
        try:
            return self._known[key]
        except KeyError:
            mode = self._look_up(key)
        if len(key) <= KEY_TAIL_CHARS:
            if len(self._known) >= _CACHED_KEYS_MAX:
                self._known.clear()
            self._known[key] = mode
        return mode

    def guard(self) -> str:
        """
        RE2: matches in the compact JSON of whatever has a key that `mode_of` knows, or a pair as `named_values` finds.

        May match where there is none; between letters it allows all that a key may hold between words.
        """
        tails = "|".join(_GAP.join(glued) for glued in _shortest_ends(self._tails))
        whole = "|".join(_GAP.join(glued) for glued in self._whole)
        key = f'(?:(?:{tails})s?|"{_GAP}(?:{whole})){_GAP}":'
        named = rf'\\*"(?:[^"]*(?:{tails})s?|{_GAP}(?:{whole})){_GAP}\\*"'
        label = rf'"(?:name|key)\\*":(?:\s|\\+[nrt])*{named}(?:\s|\\+[nrt])*[,}}]'
        return f"(?i)(?:{key}|{label})"

    def names(self) -> str:
        """RE2, without regard to case: how a name that `mode_of` knows may end in running text."""
        glued = _shortest_ends([*self._tails, *self._whole])
        return "|".join(self._spelled[word] for word in glued)

    def named_values(self, item: dict[str, Any]) -> tuple[str, ...]:
        """Where `item` holds a secret that a sibling names, as in `{"name": "DB_PASSWORD", "value": …}`."""
        for label in _LABELS:
            name = item.get(label)
            if type(name) is str and self._look_up(name) is not None:
                return _LABELLED
        return ()

    def _look_up(self, key: str) -> Mode | None:
        words = words_of(key)
        if not words:
            return None
        if mode := self._whole.get("".join(words)):
            return mode
        for count in range(1, min(len(words), _WORDS_MAX) + 1):
            if mode := self._tails.get("".join(words[-count:])):
                return mode
        return "redact" if words[-1].endswith(_GLUED_ENDS) else None


def _shortest_ends(glued: Iterable[str]) -> list[str]:
    """What is left when each that ends in another is dropped."""
    ends: list[str] = []
    for word in sorted(glued, key=len):
        if not word.endswith(tuple(ends)):
            ends.append(word)
    return ends
