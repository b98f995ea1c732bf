"""Pushing to, and listing from, a registry that breaks off and lies."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from malicious_registry import (
    Answer,
    Fault,
    Joe,
    MaliciousRegistry,
    for_method,
    headers,
    redirect,
    reset,
    send,
    status,
    tells_nothing,
)
from mesocosm.errors import Corrupt, Denied, MesocosmError, Unavailable
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.registry import push
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.push import UploadSource
from registry_fixtures import sha256, small_image

QUICK = Limits(backoff=0.001, backoff_cap=0.01, retry_after=0.01)
DATA = os.urandom(100_000)
ONE = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))


@pytest.fixture
async def registry() -> AsyncIterator[MaliciousRegistry]:
    async with MaliciousRegistry() as one:
        yield one


async def connect(registry: MaliciousRegistry, keys: Joe | None = None) -> RegistryClient:
    hosts = HostsConfig(certs_dirs=())
    return await RegistryClient.open(registry.host, hosts=hosts, limits=QUICK, credentials=keys)


def source_of(data: bytes) -> UploadSource:
    async def source(offset: int, count: int) -> AsyncIterator[bytes]:
        yield data[offset : offset + count]

    return source


BREAKS: dict[str, tuple[str, Fault]] = {
    "nothing": ("/never/", reset()),
    "the reply to a chunk": ("/uploads/upload0", reset()),
    "the beginning": ("/uploads/", reset()),
    "a chunk refused": ("/uploads/upload0", status(503)),
    "a chunk misplaced": ("/uploads/upload0", status(416)),
    "the end": ("digest=", status(500)),
}


@pytest.mark.parametrize("chunk", [None, 30_000])
@pytest.mark.parametrize("name", list(BREAKS))
async def test_an_upload_survives(registry: MaliciousRegistry, name: str, chunk: int | None) -> None:
    if name == "a chunk misplaced" and chunk is None:
        return
    registry.on(*BREAKS[name])
    async with await connect(registry) as client:
        assert await client.push_blob("a/b", ONE, source_of(DATA), chunk=chunk)
    assert registry.blobs[str(ONE.digest)] == DATA
    if name != "the beginning":  # nobody was told of that one
        assert registry.uploads == {}


@pytest.mark.parametrize(
    ("fault", "there"),
    [(tells_nothing(), True), (status(405), True), (status(501), True), (status(405), False)],
    ids=["no length", "no HEAD", "not implemented", "no HEAD, not there"],
)
async def test_what_a_registry_has_is_found_also_where_HEAD_does_not_tell(
    registry: MaliciousRegistry, fault: Fault, there: bool
) -> None:
    if there:
        registry.blobs[str(ONE.digest)] = DATA
    registry.always(f"/blobs/{ONE.digest}", for_method("HEAD", fault))
    async with await connect(registry) as client:
        assert await client.push_blob("a/b", ONE, source_of(DATA)) is not there
    assert bool([one for one in registry.seen if one.method == "PUT"]) is not there
    assert registry.blobs[str(ONE.digest)] == DATA


@pytest.mark.parametrize("said", ["bytes */0", ""])
async def test_an_empty_blob_that_is_there_is_not_sent_again(registry: MaliciousRegistry, said: str) -> None:
    """It has no first byte to ask for: 416, whether or not its length is told."""
    empty = Descriptor("application/octet-stream", Digest.of(b""), 0)
    unsatisfied = status(416, {"Content-Range": said} if said else {})

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        return await (unsatisfied if request.method == "GET" else status(405))(request, answer)

    async with await connect(registry) as client:
        assert await client.push_blob("a/b", empty, source_of(b""))
        registry.always(f"/blobs/{empty.digest}", fault)
        assert not await client.push_blob("a/b", empty, source_of(b""))


async def test_a_broken_upload_goes_on_where_the_registry_stands(registry: MaliciousRegistry) -> None:
    registry.on("/uploads/upload0", reset())
    async with await connect(registry) as client:
        await client.push_blob("a/b", ONE, source_of(DATA), chunk=30_000)
    sent = [one.headers["content-range"] for one in registry.seen if one.method == "PATCH"]
    assert sent == ["0-29999", "30000-59999", "60000-89999", "90000-99999"]


@pytest.mark.parametrize("least", ["", "70000", "x"])
async def test_what_one_request_cannot_carry_goes_in_chunks(
    registry: MaliciousRegistry, least: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least as large as the registry wants them."""
    monkeypatch.setattr(push, "PIECE", 40_000)
    registry.always("/blobs/uploads/", least_chunk(least))
    registry.on("digest=", reset())
    async with await connect(registry) as client:
        assert await client.push_blob("a/b", ONE, source_of(DATA))
    sent = [one.headers["content-range"] for one in registry.seen if one.method == "PATCH"]
    small = ["0-39999", "40000-79999", "80000-99999"]
    assert sent == (["0-69999", "70000-99999"] if least == "70000" else small)
    assert registry.blobs[str(ONE.digest)] == DATA


async def test_a_registry_that_will_have_no_chunks_gets_the_whole_again(
    registry: MaliciousRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "PIECE", 40_000)
    registry.on("digest=", reset())
    registry.always("/blobs/uploads/", no_patch)
    async with await connect(registry) as client:
        assert await client.push_blob("a/b", ONE, source_of(DATA))
    assert [one.method for one in registry.seen if one.method in ("PATCH", "PUT")] == ["PUT", "PATCH", "PUT"]
    assert registry.uploads == {}


@pytest.mark.parametrize("chunk", [None, 30_000])
async def test_an_upload_that_begins_anew_leaves_none_behind(
    registry: MaliciousRegistry, chunk: int | None
) -> None:
    """The registry is told to drop what it has of the first, before it is asked for another."""

    async def breaks_off(request: web.Request, answer: Answer) -> web.StreamResponse:
        """The connection is gone, what came of the bytes is kept, and nobody answers what that is."""
        registry.uploads["upload0"] = bytearray(b"part")
        return await (status(503) if request.method == "GET" else reset())(request, answer)

    registry.on("/uploads/upload0", *[breaks_off] * (1 if chunk is None else 1 + QUICK.attempts))
    async with await connect(registry) as client:
        assert await client.push_blob("a/b", ONE, source_of(DATA), chunk=chunk)
    assert registry.blobs[str(ONE.digest)] == DATA and registry.uploads == {}
    told = [one.method for one in registry.seen if one.method in ("POST", "DELETE")]
    assert told == ["POST", "DELETE", "POST"]


def least_chunk(least: str) -> Fault:
    return headers(OCI_Chunk_Min_Length=least)


async def no_patch(request: web.Request, answer: Answer) -> web.StreamResponse:
    return await send(request, Answer(400) if request.method == "PATCH" else answer)


async def test_a_registry_that_has_forgotten_the_upload_gets_it_anew(registry: MaliciousRegistry) -> None:
    registry.on("/uploads/upload0", reset(), status(404))
    async with await connect(registry) as client:
        await client.push_blob("a/b", ONE, source_of(DATA), chunk=30_000)
    assert registry.blobs[str(ONE.digest)] == DATA


async def test_an_upload_that_never_works_ends(registry: MaliciousRegistry) -> None:
    registry.always("/uploads/upload", status(503))
    async with await connect(registry) as client:
        for chunk in (None, 30_000):
            with pytest.raises(Unavailable):
                await client.push_blob("a/b", ONE, source_of(DATA), chunk=chunk)
            # The answer was lost, not the bytes.
            registry.blobs.clear()
    assert len(registry.seen) < 100


async def test_other_bytes_are_refused_by_the_registry_and_its_words_are_passed_on(
    registry: MaliciousRegistry,
) -> None:
    async with await connect(registry) as client:
        with pytest.raises(MesocosmError, match="other bytes"):
            await client.push_blob("a/b", ONE, source_of(DATA[::-1]))


async def test_a_registry_that_stores_under_another_digest_is_found_out(registry: MaliciousRegistry) -> None:
    registry.on("digest=", headers(Docker_Content_Digest=sha256(b"other")))
    async with await connect(registry) as client:
        with pytest.raises(Corrupt):
            await client.push_blob("a/b", ONE, source_of(DATA))


@pytest.mark.parametrize("location", ["http://169.254.169.254/x", "file:///etc/passwd", "", "gopher://x/"])
async def test_G04_an_upload_location_is_followed_no_further_than_a_redirect(
    registry: MaliciousRegistry, location: str
) -> None:
    registry.on("/uploads/", status(202, {"Location": location}))
    async with await connect(registry) as client:
        with pytest.raises(Denied):
            await client.push_blob("a/b", ONE, source_of(DATA))


async def test_G03_an_upload_elsewhere_carries_no_credentials(registry: MaliciousRegistry) -> None:
    registry.require_basic("joe", "s3cr3t-w0rd")
    async with MaliciousRegistry(address="127.0.0.2") as other:
        other.uploads["upload0"] = bytearray()
        async with await connect(registry, Joe()) as client:
            await client.log_in()
            where = f"{other.url}/v2/a/b/blobs/uploads/upload0"
            registry.on("/uploads/", status(202, {"Location": where}))
            await client.push_blob("a/b", ONE, source_of(DATA))
        assert other.blobs[str(ONE.digest)] == DATA
        assert [one.authorization for one in other.seen] == [""]
        assert registry.seen[-1].authorization.startswith("Basic ")


async def test_G03_the_bytes_of_an_upload_do_not_follow_a_redirect(registry: MaliciousRegistry) -> None:
    async with MaliciousRegistry(address="127.0.0.2") as other:
        registry.on("digest=", redirect(f"{other.url}/v2/a/b/blobs/uploads/upload0"))
        async with await connect(registry) as client:
            with pytest.raises(Unavailable, match="redirect"):
                await client.push_blob("a/b", ONE, source_of(DATA))
        assert not other.seen


async def test_a_manifest_pushed_by_digest_must_have_it(registry: MaliciousRegistry) -> None:
    async with await connect(registry) as client:
        with pytest.raises(Corrupt):
            await client.push_manifest("a/b", sha256(b"other"), b"{}", mediatypes.OCI_MANIFEST)
    assert not registry.seen


async def test_the_referrers_api_is_asked_and_filtered_here_too(registry: MaliciousRegistry) -> None:
    entries = [
        {
            "mediaType": mediatypes.OCI_MANIFEST,
            "digest": sha256(b"1"),
            "size": 1,
            "artifactType": "a/signature",
        },
        {"mediaType": mediatypes.OCI_MANIFEST, "digest": sha256(b"2"), "size": 1, "artifactType": "a/sbom"},
    ]
    body = json.dumps({"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": entries}).encode()
    registry.always("/referrers/", status(200, {"Content-Type": mediatypes.OCI_INDEX}, body))
    subject = Digest.parse(small_image().digest)
    async with await connect(registry) as client:
        assert len(await client.referrers("a/b", subject)) == 2
        (one,) = await client.referrers("a/b", subject, artifact_type="a/signature")
        assert str(one.digest) == sha256(b"1")
        registry.always("/referrers/", status(200))
    assert "artifactType=a/signature" in registry.paths("/referrers/")[-1].replace("%2F", "/")


@pytest.mark.parametrize("kept", [True, False])
async def test_what_refers_is_listed_by_us_where_the_registry_does_not(
    registry: MaliciousRegistry, kept: bool
) -> None:
    """A registry that keeps the list says so by a header; then no tag is made for it."""
    subject = {"mediaType": mediatypes.OCI_MANIFEST, "digest": str(ONE.digest), "size": ONE.size}
    empty = {"mediaType": mediatypes.OCI_EMPTY, "digest": sha256(b"{}"), "size": 2}
    manifest = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST, "artifactType": "application/x"}
    data = json.dumps({**manifest, "config": empty, "layers": [empty], "subject": subject}).encode()
    if kept:
        registry.on(sha256(data), status(201, {"OCI-Subject": str(ONE.digest)}))
    async with await connect(registry) as client:
        await client.push_manifest("a/b", sha256(data), data, mediatypes.OCI_MANIFEST)
        asked = [one.path for one in registry.seen if f"sha256-{ONE.digest.hex}" in one.path]
        assert bool(asked) is not kept
        if not kept:
            (found,) = await client.referrers("a/b", ONE.digest)
            assert (str(found.digest), found.artifact_type) == (sha256(data), "application/x")
