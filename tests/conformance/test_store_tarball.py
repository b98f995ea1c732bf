"""Tarballs from web servers: pinned, asked again cheaply, and under the registry's rules (G-04 to G-07)."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from backports import zstd

from malicious_registry import (
    Answer,
    Fault,
    MaliciousRegistry,
    change,
    endless,
    flip_bit,
    redirect,
    send,
    stall,
    status,
    truncate,
)
from mesocosm.errors import Corrupt, Denied, Exhausted, InvalidConfig, MesocosmError, NotFound, Unavailable
from mesocosm.images.digest import Digest
from mesocosm.images.progress import Phase, Progress
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.throttle import Throttle
from mesocosm.images.web import Web
from mesocosm.linux.processes import boot_id
from provisions import new_id, opened, paths_of, shown
from registry_fixtures import sha256
from tarballs import archive, file

RAW = archive(file(b"a", b"content" * 3000))
PATH = "/v2/x/blobs/tar"
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstd.compress,
}


def serve(registry: MaliciousRegistry, data: bytes) -> str:
    """Serve a file, and say where."""
    registry.blobs["tar"] = data
    return f"tarball:{registry.url}{PATH}"


@pytest.mark.parametrize("form", FORMS)
async def test_a_tarball_from_a_server_is_an_image(form: str, tmp_path: Path) -> None:
    data = FORMS[form](RAW)
    local = tmp_path / "local.tar"
    local.write_bytes(data)
    async with MaliciousRegistry() as server, opened(tmp_path) as provisioner:
        reference = serve(server, data)
        provision = await provisioner.provision(new_id(), reference, scratch=tmp_path / "s")
        with shown(provision.root, tmp_path / "root") as root:
            assert (root / "a").read_bytes() == b"content" * 3000
        twin = await provisioner.pull(f"tarball:{local}")
        assert twin.digest == provision.identity.digest
        [only] = [image for image in await provisioner.images() if image.digest == twin.digest]
        assert set(only.references) == {reference, f"tarball:{local}"}


async def test_policies_and_the_conditional_question(tmp_path: Path) -> None:
    """always, newer: one request, no bytes when nothing changed; missing, never: none."""
    new = archive(file(b"b", b"new"))
    async with MaliciousRegistry() as server, opened(tmp_path) as provisioner:
        reference = serve(server, RAW)
        with pytest.raises(NotFound):
            await provisioner.pull(reference, policy="never")
        first = await provisioner.pull(reference, policy="missing")

        asked = len(server.seen)
        for policy in ("missing", "never"):
            assert (await provisioner.pull(reference, policy=policy)).digest == first.digest
        assert len(server.seen) == asked
        for policy in ("always", "newer"):
            server.on(PATH, conditional('"tar"'))
            again = await provisioner.pull(reference, policy=policy)
            assert again.digest == first.digest and (again.checked_at or 0) >= (first.checked_at or 0)
            assert server.seen[-1].headers["if-none-match"] == '"tar"'
        server.blobs["tar"] = new
        assert (await provisioner.pull(reference)).digest != first.digest
    async with opened(tmp_path) as provisioner:  # nobody listens there any more
        assert (await provisioner.pull(reference, policy="newer")).digest != first.digest
        with pytest.raises(Unavailable):
            await provisioner.pull(reference, policy="always")


def conditional(etag: str) -> Fault:
    """Answer 304 to who knows the ETag."""

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        known = request.headers.get("If-None-Match") == etag
        return await send(request, Answer(304, {"ETag": etag}) if known else answer)

    return fault


async def test_a_date_serves_where_there_is_no_etag(tmp_path: Path) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    async with MaliciousRegistry() as server, opened(tmp_path) as provisioner:
        server.etags = False
        reference = serve(server, RAW)
        server.on(PATH, change(lambda answer: type(answer)(200, {"Last-Modified": date}, answer.body)))
        first = await provisioner.pull(reference)
        server.on(PATH, status(304))
        assert (await provisioner.pull(reference)).digest == first.digest
        assert server.seen[-1].headers["if-modified-since"] == date


async def test_a_pin_refuses_anything_else(tmp_path: Path) -> None:
    async with MaliciousRegistry() as server, opened(tmp_path) as provisioner:
        reference = serve(server, RAW)
        pinned = f"{reference}@{sha256(RAW)}"
        server.on(PATH, flip_bit(700))
        with pytest.raises(Corrupt, match="pinned"):
            await provisioner.pull(pinned)
        assert list(provisioner.store.layers.list()) == []
        image = await provisioner.pull(pinned)
        count = len(server.seen)
        assert (await provisioner.pull(pinned)).digest == image.digest
        assert len(server.seen) == count, "what a pin names is here: there is nothing to ask"


async def test_g07_a_dropped_connection_is_resumed(tmp_path: Path) -> None:
    async with MaliciousRegistry() as server, opened(tmp_path) as provisioner:
        reference = serve(server, RAW)
        server.on(PATH, truncate(5000), status(503), truncate(0))
        image = await provisioner.pull(f"{reference}@{sha256(RAW)}")
        assert image.complete
        assert any(seen.headers.get("range") == "bytes=5000-" for seen in server.seen)
        server.blobs["tar"] = other = archive(file(b"c", b"x" * 9000))
        server.ranges = False
        server.on(PATH, truncate(5000))
        assert (await provisioner.pull(f"{reference}@{sha256(other)}")).complete


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("http://169.254.169.254/latest", Denied),
        ("file:///etc/passwd", Denied),
        ("gopher://127.0.0.1/", Denied),
        ("http://user:word@127.0.0.1/", Denied),
    ],
)
async def test_g04_redirects_lead_nowhere_forbidden(
    location: str, error: type[MesocosmError], tmp_path: Path
) -> None:
    async with MaliciousRegistry() as server, opened(tmp_path) as provisioner:
        reference = serve(server, RAW)
        server.on(PATH, redirect(location))
        with pytest.raises(error) as caught:
            await provisioner.pull(reference)
        assert "\n" not in str(caught.value) and "registry" not in caught.value.message
        server.on(PATH, redirect(f"{server.url}/v2/y/blobs/tar"))
        assert (await provisioner.pull(reference)).complete


async def test_g05_plain_http_only_where_it_is_allowed(tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        with pytest.raises(Denied, match="plain http"):
            await provisioner.pull("tarball:http://files.example/a.tar")
        with pytest.raises(InvalidConfig, match="passwords"):
            await provisioner.pull("tarball:https://me:secret@files.example/a.tar")
    async with MaliciousRegistry(address="127.0.0.2") as server:
        client = Web(HostsConfig(insecure=("127.0.0.2",)))
        server.blobs["tar"] = RAW
        assert await client.read(f"{server.url}{PATH}", most=1 << 20, what="x") == RAW
        await client.close()


async def test_g06_bodies_are_bounded(tmp_path: Path) -> None:
    class Sink:
        held = (0, None)

        def write(self, data: bytes, /) -> None: ...
        def restart(self, validator: str | None, /) -> None: ...

    async with MaliciousRegistry() as server:
        server.blobs["tar"] = RAW
        client = Web(None, Limits(idle=0.2, attempts=1))
        try:
            server.on(PATH, endless())
            with pytest.raises(Exhausted):
                await client.fetch(server.url + PATH, Sink(), most=1 << 20, what="x")
            with pytest.raises(Exhausted):
                await client.fetch(server.url + PATH, Sink(), most=100, what="x")
            server.on(PATH, stall(10))
            with pytest.raises(Unavailable, match="nothing came"):
                await client.read(server.url + PATH, most=1 << 20, what="x")
            for code, error in ((404, NotFound), (403, Denied), (401, Denied), (500, Unavailable)):
                server.on(PATH, status(code))
                with pytest.raises(error):
                    await client.read(server.url + PATH, most=1 << 20, what="x")
        finally:
            await client.close()


async def test_i09_a_bomb_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(100 << 20), mtime=0)
    async with MaliciousRegistry() as server, opened(tmp_path) as provisioner:
        with pytest.raises(Exhausted):
            await provisioner.pull(serve(server, bomb))
        assert list(provisioner.store.layers.list()) == []
        assert not provisioner.store.blobs.has(Digest.parse(sha256(b"")))


async def hangs(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Send the beginning of the honest answer, and nothing more."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body)
    await response.prepare(request)
    await response.write(answer.body[:5000])
    await asyncio.Event().wait()
    return response


async def test_q16_the_next_command_goes_on_where_one_was_interrupted(tmp_path: Path) -> None:
    """By range, or past what is here already, while the server has the same; else what was left goes."""
    other = archive(file(b"a", b"changed" * 3000))
    async with MaliciousRegistry() as server:
        reference = serve(server, RAW)
        for number, fault in enumerate(("none", "changed", "rebooted", "no ranges")):
            (folder := tmp_path / str(number)).mkdir()
            server.blobs["tar"], server.ranges = RAW, True
            async with opened(folder) as provisioner:
                server.on(PATH, hangs)
                pulling = asyncio.ensure_future(provisioner.pull(reference))
                (ingest := provisioner.store.root / "ingest").mkdir(exist_ok=True)
                async with asyncio.timeout(20):
                    while not [1 for path in ingest.glob("unnamed-*") if path.stat().st_size == 5000]:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                pulling.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await pulling
            [note] = ingest.glob("*.origin")
            if fault == "rebooted":
                note.write_bytes(note.read_bytes().replace(boot_id().encode(), b"another"))
            if fault == "changed":
                server.on(PATH, change(lambda answer: type(answer)(200, {"ETag": '"2"'}, other)))
            server.ranges = fault != "no ranges"
            told: list[Progress] = []
            async with opened(folder, progress=told.append) as provisioner:
                count = len(server.seen)
                image = await provisioner.pull(reference)
                assert image.layers[0].diff_id == sha256(other if fault == "changed" else RAW)
                assert len(server.seen) == count + 1
                asked = server.seen[-1].headers.get("range")
                assert asked == (None if fault == "rebooted" else "bytes=5000-")
                assert list(ingest.iterdir()) == []
            resumed = 5000 if fault in ("none", "no ranges") else 0
            last = [one for one in told if one.subject.startswith("http")][-1]
            assert (last.resumed, last.finished, last.total) == (resumed, True, last.done)


async def test_the_rate_is_bounded_and_progress_told_to_who_pulls(tmp_path: Path) -> None:
    data, told, general = gzip.compress(os.urandom(60_000)), list[Progress](), list[Progress]()
    raw = archive(file(b"noise", data))
    async with (
        MaliciousRegistry() as server,
        Provisioner.open(
            paths_of(tmp_path), progress=general.append, throttle=Throttle(32 << 10)
        ) as provisioner,
    ):
        begun = time.monotonic()
        reference = serve(server, raw)
        await provisioner.pull(reference, progress=told.append)
        assert time.monotonic() - begun > len(raw) / (32 << 10) - 0.5
    mine = [one for one in told if one.phase is Phase.DOWNLOAD and one.subject.startswith("http")]
    assert [one.done for one in mine] == sorted(one.done for one in mine)
    assert (mine[0].total, mine[-1].done, mine[-1].finished) == (len(raw), len(raw), True)
    assert general == []
    assert {Phase.RESOLVE, Phase.DOWNLOAD} <= {one.phase for one in told}
