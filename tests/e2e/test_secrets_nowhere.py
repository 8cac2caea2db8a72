"""No secret that anybody sends to a running `auditlog up` is on its disk, in its logs, its answers or its metrics."""

from __future__ import annotations

import base64
import gzip
import json
import random
import string
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import re2

from audit_kit.masking_cards import is_card_number
from tests.command import Up, environment, up
from tests.services import short_folder

LOGS: Final = "/logs"
CREDENTIALS_OF_OURS: Final = {"profile.json", "operator.json", "logins.json", "dev-issuer.pem", "root-key"}
"""Files of mode 0600 that hold what a client of this machine enters with."""


class Seeds:
    """Makes secrets, each one new, and remembers of each what may not be found and where it was put."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.put: dict[str, str] = {}

    def each(self, place: str) -> dict[str, str]:
        """A secret of every kind for one place."""
        return {kind: self.one(kind, place) for kind in KINDS}

    def one(self, kind: str, place: str) -> str:
        """A text with a new secret of that kind."""
        text, secret = KINDS[kind](self._chance)
        self.put[secret] = f"{kind} in {place}"
        return text

    def under_a_key(self, place: str) -> str:
        """A secret that nothing but its key tells from a word."""
        secret = letters(self._chance, 24)
        self.put[secret] = f"under a key in {place}"
        return secret


def letters(chance: random.Random, count: int) -> str:
    return "".join(chance.choices(string.ascii_letters, k=count))


def alphanumeric(chance: random.Random, count: int) -> str:
    return "".join(chance.choices(string.ascii_letters + string.digits, k=count))


def card(chance: random.Random) -> tuple[str, str]:
    while True:
        digits = "4" + "".join(chance.choices(string.digits, k=15))
        if is_card_number(digits):
            grouped = " ".join(digits[i : i + 4] for i in range(0, 16, 4))
            return f"paid with {grouped}, thanks", grouped[:14]


def jwt(chance: random.Random) -> tuple[str, str]:
    payload, signature = alphanumeric(chance, 40), alphanumeric(chance, 43)
    return f"eyJhbGciOiJIUzI1NiJ9.eyJ{payload}.{signature}", signature


def bearer(chance: random.Random) -> tuple[str, str]:
    secret = alphanumeric(chance, 30)
    return f"Authorization: Bearer {secret}", secret


def basic(chance: random.Random) -> tuple[str, str]:
    secret = base64.b64encode(f"ann:{letters(chance, 18)}".encode()).decode()
    return f"sent Basic {secret}", secret[8:]


def vendor(chance: random.Random) -> tuple[str, str]:
    secret = alphanumeric(chance, 36)
    return f"used ghp_{secret}", secret


def in_url(chance: random.Random) -> tuple[str, str]:
    secret = alphanumeric(chance, 20)
    return f"postgresql://app:{secret}@db.example:5432/x", secret


def pem(chance: random.Random) -> tuple[str, str]:
    secret = alphanumeric(chance, 60)
    return f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----", secret  # house: allow(secret)


def ssn(chance: random.Random) -> tuple[str, str]:
    secret = f"{chance.randint(100, 665):03}-{chance.randint(10, 99)}-{chance.randint(1000, 9999)}"
    return f"of {secret}", secret


def assigned(chance: random.Random) -> tuple[str, str]:
    secret = alphanumeric(chance, 24)
    return f"connect with password={secret} now", secret


KINDS: Final[Mapping[str, Callable[[random.Random], tuple[str, str]]]] = {
    "card": card,
    "jwt": jwt,
    "bearer": bearer,
    "basic": basic,
    "vendor": vendor,
    "url": in_url,
    "pem": pem,
    "ssn": ssn,
    "assigned": assigned,
}
TEXTS: Final = ("user_id", "subject_id", "session_id", "user_agent", "resource_id", "details", "message")
DOCUMENTS: Final = ("before", "after", "before_state", "after_state", "metadata")
BOUNDED: Final = ("action", "resource_type", "source", "request_id", "correlation_id", "trace_id", "producer_id")


def entry(**fields: Any) -> dict[str, Any]:
    return {"user_id": "ann", "action": "UPDATE", "resource_type": "invoice", "resource_id": "7", **fields}


def documents(seeds: Seeds, name: str) -> Iterator[dict[str, Any]]:
    """One document for each way in which a secret can lie in it."""
    yield {"plain": seeds.each(f"{name}, values")}
    yield {text: index for index, text in enumerate(seeds.each(f"{name}, keys").values())}
    yield {"list": ["x", list(seeds.each(f"{name}, a list in a list").values())]}
    yield {"text": json.dumps({"inner": seeds.each(f"{name}, JSON in a string")})}
    yield {"text": json.dumps({"twice": json.dumps(seeds.each(f"{name}, JSON in JSON in a string"))})}
    yield {"password": seeds.under_a_key(name), "nested": {"clientSecret": seeds.under_a_key(f"{name}, nested")}}
    yield {"api_key": {"id": 7, "parts": [seeds.under_a_key(f"{name}, leaves below a key")]}}
    yield {"text": json.dumps({"access_token": seeds.under_a_key(f"{name}, JSON in a string")})}
    yield {"headers": [{"name": "Cookie", "value": seeds.under_a_key(f"{name}, name and value")}]}
    yield {"url": f"https://x.example/?a=b&api_key={seeds.under_a_key(f'{name}, a query string')}&c=d"}


def all_entries(seeds: Seeds) -> list[dict[str, Any]]:
    """Secrets in every field that takes text, in every form."""
    made = [entry(**{name: text}) for name in TEXTS for text in seeds.each(name).values()]
    for name in DOCUMENTS:
        made += [entry(**{name: document}) for document in documents(seeds, name)]
    for name in ("before", "after"):
        made += [entry(**{name: text}) for text in seeds.each(f"{name} itself").values()]
    return made


class Recorder:
    """What the server has answered, as bytes."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.answers: list[bytes] = []

    async def ask(self, method: str, path: str, *statuses: int, shown: bool = True, **request: Any) -> httpx.Response:
        answer = await self._client.request(method, path, **request)
        assert answer.status_code in statuses, answer.text
        if shown:
            self.answers += [answer.content, *(value for _, value in answer.headers.raw)]
        return answer


async def send_everything(http: Recorder, seeds: Seeds) -> None:
    """Send all entries, one by one and in bulks; the seeds of each are new."""
    for one in all_entries(seeds):
        await http.ask("POST", LOGS, 201, json=one)
    await http.ask("POST", f"{LOGS}/bulk", 201, json=all_entries(seeds))
    lines = b"".join(json.dumps(one).encode() + b"\n" for one in all_entries(seeds))
    headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
    await http.ask("POST", f"{LOGS}/bulk", 201, content=gzip.compress(lines), headers=headers)


async def send_what_is_refused(http: Recorder, seeds: Seeds) -> None:
    """Send secrets in what is refused: neither the answer nor a log may repeat them."""
    for name in BOUNDED:
        for text in (*seeds.each(name).values(), seeds.under_a_key(name) + "!"):
            await http.ask("POST", LOGS, 422, json=entry(**{name: text}))
    for kind in KINDS:
        text = seeds.one(kind, "an invalid entry")
        await http.ask("POST", LOGS, 422, json=entry(details=text, severity=text))
        # The answer names the field that it refuses, and nothing else may.
        await http.ask("POST", LOGS, 422, shown=False, json=entry(**{text: "an unknown field"}))
        bulk = [entry(), entry(details=text, timestamp=text)]
        await http.ask("POST", f"{LOGS}/bulk", 201, json=bulk, params={"on_error": "skip"})
        await http.ask("POST", f"{LOGS}/bulk", 422, json=bulk)
        await http.ask("POST", LOGS, 422, content=f'{{"password": "{text!r}'.encode(), headers=JSON)
        await http.ask("POST", LOGS, 422, json=entry(ip_address=seeds.one("card", "ip_address")))
        broken = {"Authorization": f"Bearer {seeds.one('vendor', 'a credential')}"}
        await http.ask("GET", LOGS, 401, headers=broken)
        key = {"Idempotency-Key": seeds.one("vendor", "Idempotency-Key"), "X-Api-Key": seeds.under_a_key("a header")}
        await http.ask("POST", LOGS, 201, json=entry(), headers=key)


JSON: Final = {"Content-Type": "application/json"}


async def ask_for_secrets(http: Recorder, seeds: Seeds) -> None:
    """Use secrets as filters: the record of a read is masked like any entry."""
    for field in ("user_id", "session_id", "resource_id", "submitted_by", "user_id.not", "resource_id.prefix"):
        for text in seeds.each(f"the filter {field}").values():
            await http.ask("GET", LOGS, 200, 422, params={field: text.replace("\n", " ")})


async def read_everything(http: Recorder) -> list[str]:
    """Read each entry there is in a list, and some of them alone; the ids."""
    ids: list[str] = []
    parameters = {"limit": "1000", "include_access": "true"}
    while True:
        page = (await http.ask("GET", LOGS, 200, params=parameters)).json()
        ids += [one["id"] for one in page["results"]]
        if page["next_token"] is None:
            break
        parameters["next_token"] = page["next_token"]
    for entry_id in ids[:: max(1, len(ids) // 50)]:
        await http.ask("GET", f"{LOGS}/{entry_id}", 200)
    return ids


class Search:
    """Finds many texts in one pass."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self._wanted = wanted
        options = re2.Options()
        options.max_mem = 1 << 30
        self._expression = re2.compile("|".join(re2.escape(text) for text in wanted).encode(), options)

    def within(self, content: bytes) -> set[str]:
        """What is said of each text that stands in the content."""
        return {self._wanted[match.group().decode()] for match in self._expression.finditer(content)}

    def below(self, folder: Path) -> set[str]:
        """The same of all files of a data folder, but for those that hold credentials of this machine's client."""
        files = [path for path in folder.rglob("*") if path.is_file() and path.name not in CREDENTIALS_OF_OURS]
        return {f"{found} ({path.relative_to(folder)})" for path in files for found in self.within(path.read_bytes())}


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


async def test_no_secret_is_left_anywhere(folder: Path) -> None:
    seeds, chance = Seeds(random.Random()), random.Random()
    lookup, sealed = f"seen-{letters(chance, 24)}", f"sealed-{letters(chance, 24)}"
    # Everything is logged that there is to log.
    async with up(folder, "--no-demo", env=environment(log_level="debug")) as started:
        async with started.client() as client:
            http = Recorder(client)
            await send_everything(http, seeds)
            await send_what_is_refused(http, seeds)
            await ask_for_secrets(http, seeds)
            marked = entry(user_id=lookup, details=sealed, metadata={"note": sealed}, before={sealed: sealed})
            last = (await http.ask("POST", LOGS, 201, json=marked)).json()["id"]
            await http.ask("GET", f"{LOGS}/{last}", 200, params={"wait_ms": 10_000})
            read = await read_everything(http)
            assert len(read) > 3 * len(all_entries(Seeds(chance)))
            assert str(uuid.UUID(last)) in read
            answered = b"\n".join(http.answers)
            metrics = (await client.get(f"{started.url}/metrics")).content
        secrets, controls = Search(seeds.put), Search({lookup: "lookup", sealed: "sealed"})
        while_running = secrets.below(started.data)
        started.stop()
        assert await started.ended() == 0
        assert while_running == secrets.below(started.data) == set()
        found = {one.partition(" ")[0] for one in controls.below(started.data)}
        assert found == {"lookup"}, "what may lie in clear is found, and what is sealed isn't"
        said = (started.said + started.erred()).encode()
    assert controls.within(answered) == {"lookup", "sealed"}
    assert controls.within(said + metrics) == set()
    for content in (answered, metrics, said):
        assert secrets.within(content) == set()


async def test_credentials_are_in_no_log_and_only_in_their_files(folder: Path) -> None:
    async with up(folder, "--no-demo", env=environment(log_level="debug")) as started:
        given = await use_credentials(started)
        started.stop()
        assert await started.ended() == 0
        assert Search(given).below(started.data) == set()
        assert Search(given).within((started.said + started.erred()).encode()) == set()


async def use_credentials(started: Up) -> dict[str, str]:
    """Make credentials of each kind and enter with them; the secret part of each, and what it is."""
    kept = started.profile["token"]
    given = {kept.rpartition(".")[2]: "the operator's key"}
    async with started.client() as client:
        made = (await client.post("/tenants", json={"tenant_id": "acme", "name": "Acme"})).json()
        key = made["first_key"]["api_key"]
        login = {"tenant_id": "acme", "user_id": "ann", "access_level": "admin"}
        token = (await client.post("/mock-login", json=login)).json()["access_token"]
        for credential in (key, token, token[:-9]):
            given[credential.rpartition(".")[2]] = "a credential of acme"
            await client.get(LOGS, headers={"Authorization": f"Bearer {credential}"})
    return given
