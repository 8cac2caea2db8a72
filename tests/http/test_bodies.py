"""Bodies come in whole, unfolded and bounded, however they were sent."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message

from audit_contracts.errors import TooLarge
from audit_contracts.principal import Permission
from audit_kit.bodies import PARTS_MAX, read_body
from audit_kit.part import Part, RawRoute
from audit_kit.policies import Access
from tests.kit_world import World, world

LIMIT = 64 * 1024
TEXT = b'{"action": "user.login"}\n' * 1000


def zstd(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(raw)


def zstd_of_unknown_size(raw: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(raw) + stream.flush()


@pytest.fixture
async def open_world() -> AsyncIterator[World]:
    async def length(request: Request) -> Response:
        body = await read_body(request, bytes_max=LIMIT)
        return Response(str(len(body)), media_type="application/json", headers={"X-Digest": f"{zlib.crc32(body)}"})

    policy = Access(permission=Permission.LOGS_WRITE)
    route = RawRoute(method="POST", path="/length", handler=length, policy=policy, operation=None)
    async with world([Part(name="bodies", routes=[route])]) as opened:
        yield opened


@pytest.fixture
async def client(open_world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with open_world.client() as opened:
        yield opened


async def post(client: httpx.AsyncClient, content: bytes, encoding: str) -> httpx.Response:
    return await client.post("/length", content=content, headers={"Content-Encoding": encoding} if encoding else {})


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TEXT, ""),
        (TEXT, "identity"),
        (gzip.compress(TEXT), "gzip"),
        (gzip.compress(TEXT), "x-gzip"),
        (gzip.compress(TEXT), " GZIP "),
        (gzip.compress(TEXT[:7]) + gzip.compress(TEXT[7:]), "gzip"),
        (zstd(TEXT), "zstd"),
        (zstd_of_unknown_size(TEXT), "zstd"),
        (zstd(TEXT[:7]) + zstd_of_unknown_size(TEXT[7:]), "zstd"),
    ],
)
async def test_a_body_is_read_in_each_encoding(client: httpx.AsyncClient, content: bytes, encoding: str) -> None:
    answer = await post(client, content, encoding)
    assert (answer.json(), answer.headers["x-digest"]) == (len(TEXT), f"{zlib.crc32(TEXT)}")


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "gzip, zstd", "compress", "*", "gzip;q=1"])
async def test_another_encoding_is_refused_and_the_known_ones_named(client: httpx.AsyncClient, encoding: str) -> None:
    answer = await post(client, TEXT, encoding)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, identity, zstd"


@pytest.mark.parametrize("encode", [gzip.compress, zstd, zstd_of_unknown_size])
async def test_a_body_may_unfold_to_the_bound_and_no_further(client: httpx.AsyncClient, encode: object) -> None:
    assert callable(encode)
    encoding = "gzip" if encode is gzip.compress else "zstd"
    assert (await post(client, encode(b"x" * LIMIT), encoding)).json() == LIMIT
    assert (await post(client, encode(b"x" * (LIMIT + 1)), encoding)).status_code == 413


BOMB_BYTES = 256 * 1024 * 1024


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_costs_no_more_memory_than_an_honest_body(client: httpx.AsyncClient, encoding: str) -> None:
    zeros = bytes(BOMB_BYTES)
    bomb = gzip.compress(zeros, 9) if encoding == "gzip" else zstd_of_unknown_size(zeros)
    del zeros
    bomb = bomb[: LIMIT - 1]
    tracemalloc.start()
    answer = await post(client, bomb, encoding)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code == 413
    assert peak < 8 * 1024 * 1024


@pytest.mark.parametrize(
    ("encode", "encoding"), [(gzip.compress, "gzip"), (zstd, "zstd"), (zstd_of_unknown_size, "zstd")]
)
async def test_a_stream_cut_short_is_refused_wherever_it_was_cut(
    client: httpx.AsyncClient, encode: object, encoding: str
) -> None:
    assert callable(encode)
    whole = encode(TEXT)
    for end in {1, 4, len(whole) // 2, len(whole) - 5, len(whole) - 1}:
        assert (await post(client, whole[:end], encoding)).status_code == 400, end


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("content", [b"", b"plain text", TEXT])
async def test_what_is_not_compressed_at_all_is_refused(
    client: httpx.AsyncClient, content: bytes, encoding: str
) -> None:
    assert (await post(client, content, encoding)).status_code == 400


@pytest.mark.parametrize(("encode", "encoding"), [(gzip.compress, "gzip"), (zstd, "zstd")])
async def test_rubbish_behind_the_stream_is_refused(client: httpx.AsyncClient, encode: object, encoding: str) -> None:
    assert callable(encode)
    assert (await post(client, encode(TEXT) + b"rubbish", encoding)).status_code == 400


@pytest.mark.parametrize(("encode", "encoding"), [(gzip.compress, "gzip"), (zstd, "zstd")])
async def test_a_body_of_very_many_parts_is_refused(client: httpx.AsyncClient, encode: object, encoding: str) -> None:
    assert callable(encode)
    assert (await post(client, encode(b"x") * PARTS_MAX, encoding)).json() == PARTS_MAX
    assert (await post(client, encode(b"x") * (PARTS_MAX + 1), encoding)).status_code == 400


async def test_a_window_beyond_the_bound_is_refused(client: httpx.AsyncClient) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert (await post(client, stream.compress(TEXT) + stream.flush(), "zstd")).status_code == 400


async def test_a_body_declared_too_large_is_refused_unread(client: httpx.AsyncClient) -> None:
    answer = await client.post("/length", content=b"x", headers={"Content-Length": str(LIMIT + 1)})
    assert answer.status_code == 413


async def test_a_body_that_grows_too_large_is_refused(client: httpx.AsyncClient) -> None:
    async def growing() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 1024 + 1):
            yield b"x" * 1024

    assert (await client.post("/length", content=growing())).status_code == 413


async def test_a_large_body_is_unfolded_beside_the_loop(client: httpx.AsyncClient) -> None:
    noise = bytes((number * 2_654_435_761 >> 13) & 0xFF for number in range(LIMIT // 2))
    assert (await post(client, gzip.compress(noise, 1), "gzip")).json() == len(noise)


async def test_a_client_that_leaves_is_no_body() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        await read_body(Request({"type": "http", "method": "POST", "headers": []}, gone), bytes_max=LIMIT)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=2000), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 7)), max_size=3))
async def test_a_spoiled_body_is_refused_or_what_it_was_bounded(raw: bytes, flips: list[tuple[int, int]]) -> None:
    for encode, encoding in ((gzip.compress, b"gzip"), (zstd, b"zstd")):
        spoiled = bytearray(encode(raw))
        for place, bit in flips:
            spoiled[place % len(spoiled)] ^= 1 << bit

        async def receive(body: bytes = bytes(spoiled)) -> Message:
            return {"type": "http.request", "body": body}

        scope = {"type": "http", "method": "POST", "headers": [(b"content-encoding", encoding)]}
        try:
            assert len(await read_body(Request(scope, receive), bytes_max=LIMIT)) <= LIMIT
        except (HTTPException, TooLarge):
            assert flips
