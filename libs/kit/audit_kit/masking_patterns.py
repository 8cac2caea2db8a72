"""
What is a secret by its own looks, wherever it stands: cards, tokens, keys, credentials.

Every expression is RE2, so that no text makes it slow, and has a guard: a cheaper expression that matches in the JSON
of an entry whenever the rule finds anything in one of its strings. One pass with all guards clears most entries.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import re2

Spans = Iterator[tuple[int, int]]


class ValueRule(NamedTuple):
    """
    One rule. `spans` gives the places of secrets in a text of UTF-8 bytes, in order, not overlapping.

    `guard` is matched on compact JSON, where quotes and control characters in strings are escaped.
    """

    name: str
    guard: str
    spans: Callable[[bytes], Spans]


def matching(expression: str) -> Callable[[bytes], Spans]:
    """Every match of the last group of `expression`, or of all of it where it has no group."""
    compiled = re2.compile(expression.encode())
    group = compiled.groups

    def spans(text: bytes) -> Spans:
        for match in compiled.finditer(text):
            yield match.span(group)

    return spans


_VENDOR_TOKENS: Final = (
    r"alk\.[a-z0-9][a-z0-9_-]{0,62}\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # our own API keys
    r"gh[pousr]_[A-Za-z0-9]{30,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{22,}",
    r"gl(?:pat|ptt|dt|rt|cbt|ft|soat|imt|agent|oas)-[A-Za-z0-9_.-]{20,}",  # GitLab
    r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}",  # Slack
    r"xapp-[0-9]-[A-Za-z0-9-]{10,}",
    r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{20,}",
    r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{10,}",  # Stripe
    r"whsec_[A-Za-z0-9+/=]{24,}",
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"GOCSPX-[A-Za-z0-9_-]{20,}",
    r"ya29\.[A-Za-z0-9_-]{20,}",
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_-]{50,}",
    r"rubygems_[a-f0-9]{48}",
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"SK[a-f0-9]{32}",  # Twilio
    r"sk-(?:ant-|proj-|svcacct-|or-v1-)?[A-Za-z0-9_-]{32,}",  # model providers
    r"hf_[A-Za-z0-9]{30,}",
    r"do[opr]_v1_[a-f0-9]{64}",  # DigitalOcean
    r"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}",  # Shopify
    r"sq0(?:atp|csp)-[A-Za-z0-9_-]{22,}",  # Square
    r"hv[sbr]\.[A-Za-z0-9_-]{24,}",  # HashiCorp
    r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,}",
    r"dapi[a-f0-9]{32}",  # Databricks
    r"dckr_pat_[A-Za-z0-9_-]{20,}",  # Docker
    r"gl(?:c|sa)_[A-Za-z0-9+/=_]{32,}",  # Grafana
    r"NRAK-[A-Z0-9]{27}",  # New Relic
    r"ATATT3[A-Za-z0-9_=-]{60,}",  # Atlassian
    r"lin_api_[A-Za-z0-9]{32,}",  # Linear
    r"figd_[A-Za-z0-9_-]{32,}",  # Figma
    r"sbp_[a-f0-9]{40}",  # Supabase
    r"key-[a-f0-9]{32}",  # Mailgun
    r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram
    r"AGE-SECRET-KEY-1[A-Z0-9]{58}",
    r"(?:IQoJb3JpZ2lu|FwoGZXIvYXdz|FQoGZXIvYXdz)[A-Za-z0-9/+=%]{40,}",  # AWS session tokens
)
_VENDOR_GUARD: Final = (
    r"gh[pousr]_[A-Za-z0-9]{9}|github_pat_|gl[a-z]{2,5}-[A-Za-z0-9_.-]{9}|xox[a-z][.-]|xapp-[0-9]|hooks\.slack\.com/"
    r"|[sr]k_(?:live|test)_|whsec_|AIza[A-Za-z0-9_-]{9}|GOCSPX-|ya29\.|npm_[A-Za-z0-9]{9}|pypi-[A-Za-z0-9_-]{20}|rubygems_"
    r"|SG\.[A-Za-z0-9_-]{9}|SK[a-f0-9]{9}|sk-[A-Za-z0-9_-]{20}|hf_[A-Za-z0-9]{9}|do[opr]_v1_|shp[a-z]{2}_|sq0[a-z]{3}-"
    r"|hv[sbr]\.[A-Za-z0-9_-]{9}|\.atlasv1\.|dapi[a-f0-9]{9}|dckr_pat_|gl(?:c|sa)_[A-Za-z0-9+/=_]{9}|NRAK-|ATATT3|lin_api_"
    r"|alk\.[a-z0-9]|figd_|sbp_[a-f0-9]{9}|key-[a-f0-9]{9}|[0-9]{8}:AA|AGE-SECRET-KEY-1|IQoJb3JpZ2lu|F[wQ]oGZXIvYXdz"
)

_SCHEME = re2.compile(rb"(?i)\b(bearer|basic)(?:[ \t]|%20|\+)+([A-Za-z0-9._~+/=%-]{6,})")
_PLAIN_WORD = re2.compile(rb"[A-Z]?[a-z-]{1,19}[.,]?")


def _credentials(text: bytes) -> Spans:
    """What follows `Bearer`, unless it is a word of prose; what follows `Basic`, if it is `user:password` in base64."""
    for match in _SCHEME.finditer(text):
        token = match.group(2)
        if match.group(1).lower() == b"basic":
            secret = _is_user_and_password(token.replace(b"%3D", b"=").replace(b"%3d", b"="))
        else:
            secret = _PLAIN_WORD.fullmatch(token) is None
        if secret:
            yield match.span(2)


def _is_user_and_password(token: bytes) -> bool:
    bare = token.rstrip(b"=.").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return b":" in base64.b64decode(bare + b"=" * (-len(bare) % 4))
    except binascii.Error:
        return False


def _us_ssns(text: bytes) -> Spans:
    for match in _SSN.finditer(text):
        start, end = match.span()
        area, group, serial = match.group().split(b"-")
        possible = area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"
        if possible and not _goes_on(text[max(0, start - 1) : start]) and not _goes_on(text[end : end + 1]):
            yield start, end


def _goes_on(neighbour: bytes) -> bool:
    return neighbour.isalnum() or neighbour in (b"-", b"_")


_SSN = re2.compile(rb"[0-9]{3}-[0-9]{2}-[0-9]{4}")

_IBAN = re2.compile(rb"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?")


def _ibans(text: bytes) -> Spans:
    for match in _IBAN.finditer(text):
        start, end = match.span()
        if text[max(0, start - 1) : start].isalnum():
            continue
        # Words in capitals that follow are no part of it: the longest ending that the check digits confirm is.
        while end - start >= 15:
            bare = text[start:end].replace(b" ", b"")
            if not text[end : end + 1].isalnum() and _is_iban(bare):
                yield start, end
                break
            end -= 1


def _is_iban(bare: bytes) -> bool:
    turned = bare[4:] + bare[:4]
    return 15 <= len(bare) <= 34 and int("".join(str(int(chr(char), 36)) for char in turned)) % 97 == 1


_PHONE = re2.compile(
    rb"\+[1-9][0-9]{0,3}(?:[ ().-]{0,2}[0-9]){5,14}|\(?[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}"
)


def _phones(text: bytes) -> Spans:
    for match in _PHONE.finditer(text):
        start, end = match.span()
        digits = sum(48 <= char <= 57 for char in match.group())
        if 7 <= digits <= 15 and not _goes_on(text[end : end + 1]) and not _goes_on(text[max(0, start - 1) : start]):
            yield start, end


VALUE_RULES: Final = (
    ValueRule(
        "private_key",
        r"PRIVATE(?:[ +]|%20)KEY(?:(?:[ +]|%20)BLOCK)?-----|PuTTY-User-Key-File-",
        matching(
            r"(?s)-----BEGIN(?:[ +]|%20)[A-Z0-9 +%]*PRIVATE(?:[ +]|%20)KEY(?:(?:[ +]|%20)BLOCK)?-----.*?"
            r"(?:-----END(?:[ +]|%20)[A-Z0-9 +%]*PRIVATE(?:[ +]|%20)KEY(?:(?:[ +]|%20)BLOCK)?-----|\z)"
            r"|PuTTY-User-Key-File-.*"
        ),
    ),
    ValueRule(
        "jwt",
        r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5}",
        matching(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*){1,3}"),
    ),
    ValueRule("credentials", r"(?i)(?:bearer|basic)(?:[ +]|%20|\\+t)", _credentials),
    ValueRule("vendor_token", _VENDOR_GUARD, matching(rf"(?:^|[^A-Za-z0-9])({'|'.join(_VENDOR_TOKENS)})")),
    ValueRule(
        "url_password",
        r'://[^/\s:@"\\]*:[^/\s"\\]+@',
        matching(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s:@\"'<>]*:([^/\s\"'<>]+)@"),
    ),
    ValueRule("us_ssn", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", _us_ssns),
)
"""The rules by looks that are always on, but for card numbers (`masking_cards`)."""

OPTIONAL_RULES: Final = (
    ValueRule(
        "email",
        r"[A-Za-z0-9]@[A-Za-z0-9]",
        matching(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]*[A-Za-z0-9]@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"),
    ),
    ValueRule("phone", r"\+[1-9]|[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}", _phones),
    ValueRule("iban", r"[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4}", _ibans),
)
"""The rules that a tenant may switch on."""
