"""The verbs of a client against a running server: what they print, how they refuse, how they end."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import zstandard
from typer.testing import CliRunner

from audit_allinone.cli import app
from audit_allinone.data_folder import DataFolder
from audit_allinone.demo import TENANT
from tests.command import AUDITLOG, Ended, Up, auditlog, environment, free_port, run, up
from tests.services import short_folder


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Up]:
    with short_folder() as folder:
        async with up(folder) as started:
            yield started
            started.stop()
            assert await started.ended() == 0
            assert "Traceback" not in started.erred()


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


async def found(server: Up, *options: str) -> list[dict[str, Any]]:
    ended = await server.auditlog("search", *options)
    assert (ended.status, ended.err) == (0, "")
    return ended.lines


async def sent(server: Up, *options: str) -> dict[str, Any]:
    ended = await server.auditlog(
        "send", "--action", "UPDATE", "--resource-type", "door", "--resource-id", "d-1", *options
    )
    assert (ended.status, ended.err) == (0, "")
    kept: dict[str, Any] = ended.lines[0]
    async with server.client() as client:
        assert (await client.get(f"/logs/{kept['id']}", params={"wait_ms": 10_000})).status_code == 200
    return kept


async def imported(server: Up, cwd: Path, text: bytes, name: str = "some.ndjson") -> Ended:
    (cwd / name).write_bytes(text)
    return await auditlog("import", name, "--format", "ndjson", cwd=cwd, env=server.env())


def lines(*entries: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def entry(action: str, **fields: Any) -> dict[str, Any]:
    return {"user_id": "ann", "action": action, "resource_type": "door", "resource_id": "d-1", **fields}


async def test_send_shows_the_entry_as_it_is_kept(server: Up) -> None:
    kept = await sent(
        server,
        *("--user-id", "ann", "--severity", "WARNING", "--outcome", "failure", "--details", "slammed"),
        *("--before", '{"open": true}', "--after", '{"open": false}', "--metadata", '{"pin": "1234"}'),
        *("--ip-address", "203.0.113.9", "--correlation-id", "c-1"),
    )
    assert kept["before"] == {"open": True}
    assert kept["after"] == {"open": False}
    assert kept["metadata"] == {"pin": "[REDACTED]"}
    assert (kept["severity"], kept["outcome"], kept["details"]) == ("WARNING", "failure", "slammed")
    assert kept["receipt"]


async def test_search_takes_every_kind_of_filter(server: Up) -> None:
    first = await sent(server, "--user-id", "bea", "--session-id", "s-1")
    second = await sent(server, "--user-id", "bea", "--session-id", "s-2", "--outcome", "success")
    both = [second["id"], first["id"]]
    assert [line["id"] for line in await found(server, "--user-id", "bea")] == both
    assert [line["id"] for line in await found(server, "--user-id", "bea", "--sort", "position")] == both[::-1]
    assert [line["id"] for line in await found(server, "--user-id", "bea", "--not-session-id", "s-1")] == both[:1]
    assert [line["id"] for line in await found(server, "--session-id", "s-1", "--session-id", "s-2")] == both
    assert [line["id"] for line in await found(server, "--user-id", "bea", "--action-prefix", "UPD")] == both
    assert await found(server, "--user-id", "bea", "--action-prefix", "VIEW") == []
    at = second["timestamp"]
    assert [line["id"] for line in await found(server, "--user-id", "bea", "--from", at)] == both[:1]
    assert [line["id"] for line in await found(server, "--user-id", "bea", "--to", at)] == both[1:]


async def test_search_follows_pages_up_to_its_limit_and_counts_where_asked(server: Up) -> None:
    everything = await found(server, "--source", "demo", "--limit", "100000")
    assert len({line["id"] for line in everything}) == len(everything) > 200
    assert len(await found(server, "--source", "demo", "--limit", "7")) == 7
    counted = await server.auditlog("search", "--source", "demo", "--limit", "1", "--total")
    assert counted.err == f"1 entries of {len(everything)}\n"


async def test_what_the_log_recorded_of_itself_is_shown_where_asked(server: Up) -> None:
    await found(server, "--limit", "1")
    recorded = await found(server, "--include-access", "--source", "auditlog", "--limit", "5")
    assert {line["source"] for line in recorded} == {"auditlog"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("search", "--from", "yesterday"),
            "A parameter is unknown or out of bounds\n  from: from takes an RFC 3339 time",
        ),
        (
            ("send", "--action", "a b", "--resource-type", "door", "--resource-id", "d-1"),
            "The document breaks its contract\n  /action: ",
        ),
        (("token", "--tenant", "nobody", "--role", "auditor"), "There is no such thing: there is no such tenant"),
        (("rotate-keys", "nobody"), "There is no such thing: there is no such tenant"),
    ],
)
async def test_a_refusal_says_title_detail_and_where(server: Up, arguments: tuple[str, ...], text: str) -> None:
    ended = await server.auditlog(*arguments)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(text)
    assert "Traceback" not in ended.err


async def test_an_option_that_is_no_json_is_a_mistake_in_the_call(server: Up) -> None:
    required = ("--action", "A", "--resource-type", "door", "--resource-id", "d-1")
    ended = await server.auditlog("send", *required, "--metadata", "{pin: 1}")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("--metadata takes JSON: ")


async def test_token_is_the_profiles_or_anybodys_in_development_mode(server: Up) -> None:
    own = await server.auditlog("token")
    assert own.out == server.profile["token"] + "\n"
    other = await server.auditlog("token", "--tenant", TENANT, "--user", "cleo", "--role", "user")
    assert (other.status, other.err) == (0, "")
    env = {**server.env(), "AUDITLOG_TOKEN": other.out.strip()}
    asked = await auditlog("search", "--limit", "1", cwd=server.cwd, env=env)
    assert (asked.status, asked.out) == (0, "")  # a user sees its own entries, and cleo has none


async def test_a_token_goes_to_no_other_server_than_its_own(server: Up) -> None:
    ended = await server.auditlog("search", "--url", f"http://127.0.0.1:{free_port()}")
    assert ended.status == 1
    assert ended.err.startswith("no token for http://127.0.0.1:")


async def test_a_server_that_is_not_there_is_one_clear_line(folder: Path) -> None:
    env = environment(url=f"http://127.0.0.1:{free_port()}", token="x")
    ended = await auditlog("search", cwd=folder, env=env)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("the server can't be reached: ")
    assert ended.err.count("\n") == 1


async def test_without_a_profile_it_says_how_to_get_one(folder: Path) -> None:
    ended = await auditlog("search", cwd=folder, env=environment(data_dir=str(folder)))
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("no server is known: start `auditlog up`")


async def test_a_pipe_that_is_closed_early_is_no_error_of_ours(server: Up) -> None:
    ended = await run("bash", "-c", f"{AUDITLOG} search --limit 300 | head -1", cwd=server.cwd, env=server.env())
    assert (ended.status, ended.err, len(ended.lines)) == (0, "", 1)


async def test_rotating_keys_leaves_everything_readable(server: Up) -> None:
    before = await sent(server, "--user-id", "dan")
    rotated = await server.auditlog("rotate-keys", TENANT)
    assert (rotated.status, rotated.err) == (0, "")
    assert {line.split()[0] for line in rotated.out.splitlines()} == {"transport", "owner", "cursor", "receipt"}
    after = await sent(server, "--user-id", "dan")
    assert [line["id"] for line in await found(server, "--user-id", "dan")] == [after["id"], before["id"]]


async def test_bad_lines_are_told_kept_and_leave_the_others_alone(server: Up, folder: Path) -> None:
    text = lines(entry("REJ"), entry("not an action"), entry("REJ", id="not-a-uuid"), entry("REJ", resource_id="d-2"))
    text += b"{broken\n\n[]\n" + b'{"a": 1, "a": 2}\n'
    ended = await imported(server, folder, text, "mixed.ndjson")
    assert ended.status == 3
    assert ended.out.startswith("2 entries accepted")
    rejects = [json.loads(line) for line in (folder / "mixed.rejects.ndjson").read_text().splitlines()]
    assert {reject["line"]: reject["text"] for reject in rejects} == {
        number: text.splitlines()[number - 1].decode() for number in (2, 3, 5, 7, 8)
    }
    assert all(reject["reason"] for reject in rejects)
    reasons = {reject["line"]: reject["reason"] for reject in rejects}
    assert reasons[2].startswith("/action: ")
    assert reasons[7] == "not a JSON object"
    for reject in rejects:
        assert f"line {reject['line']}: {reject['reason']}" in ended.err
    assert (folder / "mixed.rejects.ndjson").stat().st_mode & 0o077 == 0


async def test_a_file_of_nothing_but_bad_lines_imports_nothing(server: Up, folder: Path) -> None:
    ended = await imported(server, folder, lines(entry("no action"), entry("none either")))
    assert ended.status == 3
    assert ended.out.startswith("0 entries accepted")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
async def test_entries_without_ids_are_imported_once_however_the_file_is_packed(
    server: Up, folder: Path, pack: Any
) -> None:
    action = f"ONCE.{uuid.uuid4().hex}"
    # The same line twice is two entries; the same file twice is one import, also once it has grown.
    text = lines(entry(action), entry(action), entry(action, resource_id="d-2"))
    for grown, expected in ((text, 3), (text, 3), (text + lines(entry(action)), 4)):
        ended = await imported(server, folder, pack(grown))
        assert (ended.status, ended.err) == (0, "")
        await server.drained()
        assert len(await found(server, "--action", action)) == expected


async def test_a_cut_file_imports_what_it_holds_and_says_so(server: Up, folder: Path) -> None:
    packed = gzip.compress(lines(*(entry("CUT", resource_id=uuid.uuid4().hex) for _ in range(2_000))))
    ended = await imported(server, folder, packed[:-100])
    assert ended.status == 1
    assert ended.err.startswith("the compressed file is broken or cut short")


async def test_an_import_that_may_not_write_ends_at_once(server: Up, folder: Path) -> None:
    token = await server.auditlog("token", "--tenant", TENANT, "--user", "eva", "--role", "auditor")
    (folder / "a.ndjson").write_bytes(lines(*(entry("NEVER") for _ in range(3_000))))
    env = {**server.env(), "AUDITLOG_TOKEN": token.out.strip()}
    ended = await auditlog("import", "a.ndjson", "--format", "ndjson", cwd=folder, env=env)
    assert ended.status == 1
    assert ended.out.startswith("0 entries accepted")
    assert ended.err.count("\n") == 1


async def test_dead_letters_are_listed_with_their_reason_and_sent_again(server: Up) -> None:
    connection = await asyncpg.connect(DataFolder(server.data).login_url("projector"))
    try:
        await connection.execute(
            "INSERT INTO auditlog_queue.messages (tenant, batch_id, body) VALUES ($1, $2, $3)",
            TENANT,
            uuid.uuid4(),
            b"no sealed batch",
        )
    finally:
        await connection.close()
    await server.drained()
    env = environment(data_dir=str(server.data))

    async def dead_letters(*arguments: str) -> Ended:
        ended = await auditlog("dead-letters", *arguments, "--tenant", TENANT, cwd=server.cwd, env=env)
        assert ended.err == ""
        return ended

    (letter,) = (await dead_letters("list")).lines
    assert (letter["reason"], letter["replayed_at"]) == ("seal_broken", None)
    assert "message" not in letter
    assert (await dead_letters("replay", str(letter["dead_letter_id"]))).out == "1 sent again\n"
    assert (await dead_letters("list")).lines == []
    assert (await dead_letters("replay")).out == "0 sent again\n"
    await server.drained()
    (again,) = (await dead_letters("list", "--replayed")).lines
    assert again["replayed_at"] is not None


async def test_a_dead_letter_that_there_is_not_is_an_error(server: Up) -> None:
    env = environment(data_dir=str(server.data))
    ended = await auditlog("dead-letters", "replay", "--tenant", TENANT, "4711", cwd=server.cwd, env=env)
    assert (ended.status, ended.err) == (1, f"{TENANT} has no dead letter 4711\n")


async def test_config_shows_every_setting_and_no_secret(folder: Path) -> None:
    env = environment(query_database_url="postgresql://q:hunter2@localhost/a", port="9000", prot="1")
    ended = await auditlog("config", cwd=folder, env=env)
    assert ended.status == 0
    assert "AUDITLOG_PORT=9000\n" in ended.out
    assert "AUDITLOG_QUERY_DATABASE_URL='(hidden)'\n" in ended.out
    assert "hunter2" not in ended.out + ended.err
    assert ended.err == "warning: AUDITLOG_PROT is no setting; did you mean AUDITLOG_PORT?\n"


@pytest.mark.parametrize(
    "verb", ["up", "serve", "migrate", "config", "token", "send", "search", "import", "rotate-keys", "dead-letters"]
)
def test_every_verb_has_help_worth_reading(verb: str) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 8
