"""Database URLs for one login after another."""

from __future__ import annotations

from urllib.parse import quote, urlsplit


def url_as(owner_url: str, login: str, password: str) -> str:
    """`owner_url` as another login of the same database."""
    parts = urlsplit(owner_url)
    return parts._replace(netloc=f"{login}:{quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}").geturl()
