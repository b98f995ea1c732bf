"""Blobs of registries and files of web servers come by one piece of code, with one behaviour (G-06, G-07)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from malicious_registry import (
    Answer,
    Fault,
    MaliciousRegistry,
    change,
    end_early,
    headers,
    reset,
    send,
    stall,
    status,
    tells_nothing,
    truncate,
)
from mesocosm.errors import Exhausted, NotFound, Unavailable
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.validators import if_same, is_strong, unless_same, validator_of
from mesocosm.images.web import Fetched, Web
from registry_fixtures import sha256

QUICK = Limits(idle=0.3, min_rate=10_000, attempts=4, backoff=0.001, backoff_cap=0.01, deadline=20)
DATA = os.urandom(300_000)
NAME = sha256(DATA)
PATH = f"/v2/a/b/blobs/{NAME}"
NOWHERE = HostsConfig(certs_dirs=())
OLD = "Wed, 21 Oct 2015 07:28:00 GMT"

Get = Callable[[], Awaitable[bytes]]


class Buffer:
    """A target in memory."""

    def __init__(self, held: bytes = b"", validator: str | None = None) -> None:
        self.data = bytearray(held)
        self.validator = validator
        self.begun = 0

    @property
    def held(self) -> tuple[int, str | None]:
        return len(self.data), self.validator

    def write(self, data: bytes, /) -> None:
        self.data += data

    def restart(self, validator: str | None, /) -> None:
        self.data.clear()
        self.begun += 1


@pytest.fixture
async def server() -> AsyncIterator[MaliciousRegistry]:
    async with MaliciousRegistry() as one:
        one.blobs[NAME] = DATA
        yield one


@pytest.fixture
async def files() -> AsyncIterator[Web]:
    web = Web(NOWHERE, QUICK)
    yield web
    await web.close()


@pytest.fixture(params=["blob", "file"])
async def get(
    request: pytest.FixtureRequest, server: MaliciousRegistry, files: Web, tmp_path: Path
) -> AsyncIterator[Get]:
    """Fetches the same bytes, as a registry's blob or as a web server's file."""

    async def blob() -> bytes:
        store = BlobStore.open(tmp_path / "store")
        one = Descriptor("application/octet-stream", Digest.parse(NAME), len(DATA))
        async with await RegistryClient.open(server.host, hosts=NOWHERE, limits=QUICK) as client:
            await client.fetch_blob(store, "a/b", one)
        return store.read(one.digest, limit=one.size)

    async def file() -> bytes:
        buffer = Buffer()
        came = await files.fetch(server.url + PATH, buffer, most=1 << 20, what="the file")
        assert came is not None and came.size == len(buffer.data)
        return bytes(buffer.data)

    yield blob if request.param == "blob" else file


FAULTS: dict[str, tuple[Fault, ...]] = {
    "dropped": (truncate(1000),),
    "dropped again and again": (truncate(100_000), truncate(50_000), truncate(0)),
    "reset": (reset(), truncate(1000), reset()),
    "silent": (truncate(1000), stall(5000)),
    "later": (truncate(1000), status(503), status(429)),
    "another range": (truncate(1000), headers(Content_Range="bytes 0-9/300000")),
    "no range told": (truncate(1000), headers(Content_Range="")),
    "malformed range": (truncate(1000), headers(Content_Range="bytes 1-2-3/x")),
    "range of another length": (truncate(1000), headers(Content_Range="bytes 1000-299999/999999")),
    "part of the rest": (truncate(1000), headers(Content_Range="bytes 1000-2000/300000")),
    "range of another version": (truncate(1000), headers(ETag='"other"')),
    "many ranges": (truncate(1000), headers(Content_Type="multipart/byteranges; boundary=x")),
    "no such range": (truncate(1000), status(416)),
    "rest ends early": (truncate(1000), end_early(5000)),
}
RESUMED = {
    "dropped": 1000,
    "dropped again and again": 150_000,
    "reset": 1000,
    "silent": 6000,
    "later": 1000,
    "rest ends early": 6000,
}
"""Where the last request has to begin; after a range that was another, none is asked for."""


@pytest.mark.parametrize("name", list(FAULTS))
async def test_G07_whatever_happens_on_the_way_the_bytes_are_right(
    server: MaliciousRegistry, get: Get, name: str
) -> None:
    server.on(PATH, *FAULTS[name])
    assert await get() == DATA
    asked = [one.headers.get("range") for one in server.seen]
    assert len(asked) == len(FAULTS[name]) + 1
    assert asked[-1] == (f"bytes={RESUMED[name]}-" if name in RESUMED else None)


@pytest.mark.parametrize("etags", [True, False])
async def test_G07_a_server_without_ranges_sends_what_is_here_again_and_it_is_passed_over(
    server: MaliciousRegistry, get: Get, etags: bool
) -> None:
    server.ranges, server.etags = False, etags
    server.on(PATH, truncate(100_000), truncate(200_000))
    assert await get() == DATA


async def test_G06_a_server_that_only_ever_lies_ends_in_an_error(server: MaliciousRegistry, get: Get) -> None:
    server.always(PATH, truncate(0))
    with pytest.raises(Unavailable, match=r"broke off"):
        await get()
    assert len(server.seen) == QUICK.attempts


async def test_a_206_that_nobody_asked_for_is_no_file(server: MaliciousRegistry, get: Get) -> None:
    server.on(PATH, change(lambda answer: Answer(206, answer.headers, answer.body)))
    with pytest.raises(Unavailable, match="206"):
        await get()


async def test_a_file_without_length_and_version_comes_whole(server: MaliciousRegistry, get: Get) -> None:
    server.on(PATH, tells_nothing())
    assert await get() == DATA


# --- files: what is here is kept while it is known to be of the same version ---


async def test_a_changed_file_begins_anew(server: MaliciousRegistry, files: Web) -> None:
    other = bytes(reversed(DATA))
    server.on(PATH, truncate(100_000), change(lambda answer: Answer(200, {"ETag": '"2"'}, other)))
    buffer = Buffer()
    assert await files.fetch(server.url + PATH, buffer, most=1 << 20, what="x") == Fetched(len(other), '"2"')
    assert bytes(buffer.data) == other
    assert server.seen[-1].headers["if-range"] == f'"{NAME}"'
    assert buffer.begun == 2


async def test_a_range_that_does_not_say_of_which_version_it_is_is_not_put_to_the_rest(
    server: MaliciousRegistry, files: Web
) -> None:
    """A server that knows no If-Range, and whose file has changed."""
    other = bytes(reversed(DATA))

    async def changed(request: web.Request, answer: Answer) -> web.StreamResponse:
        server.blobs[NAME], server.etags = other, False
        return await send(
            request, Answer(206, {"Content-Range": answer.headers["Content-Range"]}, other[1000:])
        )

    server.on(PATH, truncate(1000), changed)
    buffer = Buffer()
    await files.fetch(server.url + PATH, buffer, most=1 << 20, what="x")
    assert bytes(buffer.data) == other


@pytest.mark.parametrize(
    ("told", "resumed"),
    [
        ({"ETag": '"1"'}, True),
        ({"ETag": 'W/"1"'}, False),
        ({"Last-Modified": OLD, "Date": "Wed, 21 Oct 2015 07:29:00 GMT"}, True),
        ({"Last-Modified": OLD, "Date": "Wed, 21 Oct 2015 07:28:59 GMT"}, False),
        ({"Last-Modified": "yesterday", "Date": OLD}, False),
        ({}, False),
    ],
    ids=["etag", "weak etag", "settled date", "fresh date", "no date", "nothing"],
)
async def test_only_strong_validators_put_parts_together(
    server: MaliciousRegistry, files: Web, told: dict[str, str], resumed: bool
) -> None:
    """RFC 9110 sections 8.8.2.2 and 13.1.5."""

    async def cut(request: web.Request, answer: Answer) -> web.StreamResponse:
        return await send(request, Answer(200, told, DATA), cut=100_000)

    server.etags = False
    same = change(lambda answer: Answer(answer.status, {**answer.headers, **told}, answer.body))
    server.on(PATH, cut, same)
    buffer = Buffer()
    await files.fetch(server.url + PATH, buffer, most=1 << 20, what="x")
    assert bytes(buffer.data) == DATA
    assert server.seen[-1].headers.get("range") == ("bytes=100000-" if resumed else None)
    assert buffer.begun == (1 if resumed else 2)


async def test_what_is_here_whole_is_not_put_together_with_another_range(
    server: MaliciousRegistry, files: Web
) -> None:
    """416: nothing lies beyond what is here; it is asked for again, and passed over."""
    buffer = Buffer(DATA, f'"{NAME}"')
    server.on(PATH, status(416))
    assert await files.fetch(server.url + PATH, buffer, most=1 << 20, what="x") is not None
    assert bytes(buffer.data) == DATA
    assert (len(server.seen), buffer.begun) == (2, 0)


async def test_most_holds_whatever_is_told(server: MaliciousRegistry, files: Web) -> None:
    for fault in ((), (tells_nothing(),)):
        server.on(PATH, *fault)
        buffer = Buffer()
        with pytest.raises(Exhausted, match="larger than the 1000 bytes"):
            await files.fetch(server.url + PATH, buffer, most=1000, what="x")
        assert len(buffer.data) <= 1000
    with pytest.raises(NotFound):
        await files.fetch(server.url + "/v2/a/b/blobs/none", Buffer(), most=1000, what="x")


def test_validators() -> None:
    etag = validator_of({"ETag": '"x"', "Last-Modified": OLD})
    assert (etag, is_strong(etag), unless_same(etag), if_same(etag)) == (
        '"x"',
        True,
        {"If-None-Match": '"x"'},
        {"If-Range": '"x"'},
    )
    dated = validator_of({"Last-Modified": OLD, "Date": "Wed, 21 Oct 2020 07:28:00 GMT"})
    assert (is_strong(dated), unless_same(dated), if_same(dated)) == (
        True,
        {"If-Modified-Since": OLD},
        {"If-Range": OLD},
    )
    fresh = validator_of({"Last-Modified": OLD, "Date": OLD})
    assert (is_strong(fresh), unless_same(fresh)) == (False, {"If-Modified-Since": OLD})
    assert validator_of({"ETag": "x" * 513}) is None
    assert (unless_same(None), if_same(None), is_strong(None)) == ({}, {}, False)
