"""The client against a registry that lies: every row G-01 to G-13 from both sides."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from malicious_registry import (
    Fault,
    MaliciousRegistry,
    change,
    drip,
    end_early,
    endless,
    flip_bit,
    headers,
    mute,
    raw,
    redirect,
    reset,
    stall,
    status,
    truncate,
)
from mesocosm.errors import Corrupt, Denied, Exhausted, InvalidConfig, MesocosmError, NotFound, Unavailable
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, Manifest, parse_document
from mesocosm.images.registry.auth import Credential
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.faults import status_fault, wire_fault
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.limits import Limits
from registry_fixtures import SmallImage, sha256, small_image

QUICK = Limits(
    connect=2,
    header=2,
    idle=0.2,
    min_rate=10_000,
    backoff=0.001,
    backoff_cap=0.01,
    retry_after=0.01,
    deadline=20,
)
IMPATIENT = Limits(
    connect=0.3,
    header=0.3,
    idle=0.3,
    min_rate=10_000,
    attempts=2,
    backoff=0.001,
    backoff_cap=0.01,
    deadline=9,
)
SECRET = "s3cr3t-w0rd"


class Keys:
    """Credentials by registry name."""

    def __init__(self, **known: Credential) -> None:
        self.known = {name.replace("_", "."): one for name, one in known.items()}

    async def find(self, registry: str, repository: str = "") -> Credential | None:
        return self.known.get(registry)


def keys_for(registry: MaliciousRegistry, credential: Credential) -> Keys:
    keys = Keys()
    keys.known[registry.host] = credential
    return keys


@pytest.fixture
async def registry() -> AsyncIterator[MaliciousRegistry]:
    async with MaliciousRegistry() as one:
        yield one


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "store")


def big_blob(registry: MaliciousRegistry, size: int = 300_000) -> tuple[bytes, Descriptor]:
    data = os.urandom(size)
    registry.blobs[sha256(data)] = data
    return data, Descriptor("application/octet-stream", Digest.of(data), size)


async def connect(
    registry: MaliciousRegistry, limits: Limits = QUICK, keys: Keys | None = None, **config: tuple[str, ...]
) -> RegistryClient:
    hosts = HostsConfig(certs_dirs=(), insecure=config.get("insecure", ()))
    return await RegistryClient.open(registry.host, hosts=hosts, limits=limits, credentials=keys)


async def pull(registry: MaliciousRegistry, store: BlobStore, reference: str = "latest") -> Manifest:
    """Fetch manifest, configuration and layers of a/b into the store."""
    async with await connect(registry) as client:
        reply = await client.manifest("a/b", reference)
        assert reply is not None
        document = parse_document(reply.data, content_type=reply.media_type)
        assert isinstance(document, Manifest)
        document.require_image("a/b")
        for one in (document.config, *document.layers):
            await client.fetch_blob(store, "a/b", one)
        return document


def is_empty(store: BlobStore) -> bool:
    return not list(store.list()) and not list((store.root / "ingest").iterdir())


# --- the benign twin of everything below ---


async def test_an_honest_registry_gives_the_whole_image(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    image = small_image()
    registry.add(image, "a/b", "latest")
    manifest = await pull(registry, store)
    assert str(manifest.digest) == image.digest
    assert {str(one.digest) for one in store.list()} == set(image.blobs)
    assert all(store.read(Digest.parse(name), limit=1 << 20) == data for name, data in image.blobs.items())


# --- G-01 ---

MALFORMED = [
    "sha256:../../x",
    "sha256:" + "A" * 64,
    "sha256:" + "a" * 63,
    "sha256:" + "a" * 65,
    "sha256:" + "a" * 64 + "\n",
    "sha256",
    "sha256:",
    ":" + "a" * 64,
    "md5:" + "a" * 32,
    "sha512:" + "a" * 64,
    "sha256:" + "\u0661" * 64,
    "SHA256:" + "a" * 64,
]


@pytest.mark.parametrize("text", MALFORMED)
@pytest.mark.parametrize("place", ["config", "layer", "index", "asked"])
async def test_G01_malformed_digests_are_refused(
    registry: MaliciousRegistry, store: BlobStore, text: str, place: str
) -> None:
    image = small_image()
    document = json.loads(image.manifest)
    if place == "config":
        document["config"]["digest"] = text
    elif place == "layer":
        document["layers"][0]["digest"] = text
    elif place == "index":
        entry = {"mediaType": image.media_type, "size": 5, "digest": text}
        document = {"schemaVersion": 2, "manifests": [entry]}
    media_type = "application/vnd.oci.image.index.v1+json" if place == "index" else image.media_type
    registry.serve_manifest("a/b", "latest", json.dumps(document).encode(), media_type)
    # "sha256" alone is a tag, and there is none of that name.
    with pytest.raises((InvalidConfig, NotFound) if place == "asked" else Corrupt):
        await pull(registry, store, text if place == "asked" else "latest")
    assert is_empty(store)


@pytest.mark.parametrize("text", [one for one in MALFORMED if one.isprintable() and one.isascii()])
async def test_G01_a_malformed_digest_header_is_refused(
    registry: MaliciousRegistry, store: BlobStore, text: str
) -> None:
    registry.add(small_image(), "a/b", "latest")
    registry.on("/manifests/", headers(Docker_Content_Digest=text))
    with pytest.raises(Corrupt):
        await pull(registry, store)
    assert is_empty(store)


async def test_G01_a_manifest_must_have_the_digest_the_registry_claims(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    registry.add(small_image(), "a/b", "latest")
    registry.on("/manifests/", headers(Docker_Content_Digest="sha256:" + "0" * 64))
    with pytest.raises(Corrupt):
        await pull(registry, store)
    await pull(registry, store)


async def test_G01_G13_a_pinned_manifest_must_have_the_digest_asked_for(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    good, bad = small_image(), small_image([{"evil": b"evil"}])
    registry.add(good, "a/b", "latest")
    # What was verified under the pin is swapped before it is fetched: header and body agree with each other.
    registry.manifests["a/b", good.digest] = (bad.manifest, bad.media_type)
    with pytest.raises(Corrupt):
        await pull(registry, store, good.digest)
    assert is_empty(store)
    registry.manifests["a/b", good.digest] = (good.manifest, good.media_type)
    assert str((await pull(registry, store, good.digest)).digest) == good.digest


async def test_G01_resolve_of_a_pin_answered_with_another_digest_is_refused(
    registry: MaliciousRegistry,
) -> None:
    image = small_image()
    registry.add(image, "a/b", "latest")
    registry.on("/manifests/", headers(Docker_Content_Digest="sha256:" + "0" * 64))
    async with await connect(registry) as client:
        with pytest.raises(Corrupt):
            await client.resolve("a/b", image.digest)
        resolved = await client.resolve("a/b", image.digest)
        assert resolved is not None
        assert str(resolved.digest) == image.digest


# --- G-02 ---


def ambiguous(kind: str, image: SmallImage) -> tuple[bytes, str]:
    document = json.loads(image.manifest)
    if kind == "both lists":
        return json.dumps({**document, "manifests": []}).encode(), image.media_type
    if kind == "type differs":
        return image.manifest, "application/vnd.docker.distribution.manifest.v2+json"
    if kind == "served as index":
        return image.manifest, "application/vnd.oci.image.index.v1+json"
    if kind == "duplicate key":
        return image.manifest[:-1] + b', "layers": []}', image.media_type
    if kind == "other case":
        return image.manifest[:-1] + b', "Layers": []}', image.media_type
    old = {"schemaVersion": 1, "name": "a/b", "tag": "latest", "fsLayers": [], "history": []}
    return json.dumps(old).encode(), "application/vnd.docker.distribution.manifest.v1+prettyjws"


@pytest.mark.parametrize(
    "kind", ["both lists", "type differs", "served as index", "duplicate key", "other case", "schema 1"]
)
async def test_G02_ambiguous_documents_are_refused_also_on_the_second_pull(
    registry: MaliciousRegistry, store: BlobStore, kind: str
) -> None:
    image = small_image()
    registry.add(image, "a/b", "latest")
    await pull(registry, store)
    registry.serve_manifest("a/b", "latest", *ambiguous(kind, image))
    with pytest.raises(MesocosmError):
        await pull(registry, store)
    registry.add(image, "a/b", "latest")
    await pull(registry, store)


# --- G-03 ---


async def test_G03_credentials_do_not_follow_a_redirect(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    image = small_image()
    registry.add(image, "a/b", "latest")
    registry.require_basic("joe", SECRET)
    async with MaliciousRegistry(address="127.0.0.2") as other:
        other.add(image, "a/b", "latest")
        blob = next(iter(image.blobs))
        registry.always(f"/blobs/{blob}", redirect(f"{other.url}/v2/a/b/blobs/{blob}"))
        descriptor = Descriptor("a/b", Digest.parse(blob), len(image.blobs[blob]))
        keys = keys_for(registry, Credential("joe", SECRET))
        async with await connect(registry, keys=keys) as client:
            await client.manifest("a/b", "latest")
            await client.fetch_blob(store, "a/b", descriptor)
        assert other.paths("/blobs/")
        assert [one.authorization for one in other.seen] == [""] * len(other.seen)
        assert registry.seen[-1].authorization.startswith("Basic ")
    assert store.has(descriptor.digest)


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="{url}/token",service="x"'])
async def test_G03_a_stranger_cannot_ask_for_credentials(
    registry: MaliciousRegistry, store: BlobStore, challenge: str
) -> None:
    """CVE-2020-15157: the target of a redirect answers 401."""
    _, descriptor = big_blob(registry)
    registry.require_basic("joe", SECRET)
    async with MaliciousRegistry(address="127.0.0.2") as other:
        other.challenge = challenge.format(url=other.url)
        registry.always("/blobs/", redirect(f"{other.url}/v2/a/b/blobs/{descriptor.digest}"))
        async with await connect(registry, keys=keys_for(registry, Credential("joe", SECRET))) as client:
            with pytest.raises(Denied) as raised:
                await client.fetch_blob(store, "a/b", descriptor)
        assert other.seen
        assert [one.authorization for one in other.seen] == [""] * len(other.seen)
        assert SECRET not in str(raised.value)
        assert not other.paths("/token")
    assert is_empty(store)


async def test_G03_the_token_realm_may_not_be_another_plain_http_host(registry: MaliciousRegistry) -> None:
    registry.add(small_image(), "a/b", "latest")
    keys = keys_for(registry, Credential("joe", SECRET))
    async with MaliciousRegistry(address="127.0.0.2") as other:
        registry.require_token(realm=f"{other.url}/token", user=("joe", SECRET))
        async with await connect(registry, keys=keys) as client:
            with pytest.raises(Denied):
                await client.manifest("a/b", "latest")
        assert not other.seen
        registry.require_token(user=("joe", SECRET))
        async with await connect(registry, keys=keys) as client:
            assert await client.manifest("a/b", "latest") is not None


async def test_G03_foreign_layer_urls_are_never_fetched(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    image = small_image()
    async with MaliciousRegistry(address="127.0.0.2") as other:
        document = json.loads(image.manifest)
        document["layers"][0]["urls"] = [f"{other.url}/layer"]
        registry.add(image, "a/b", "latest")
        registry.serve_manifest("a/b", "with-urls", json.dumps(document).encode(), image.media_type)
        await pull(registry, store, "with-urls")
        document["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        registry.serve_manifest("a/b", "foreign", json.dumps(document).encode(), image.media_type)
        with pytest.raises(MesocosmError, match="foreign"):
            await pull(registry, store, "foreign")
        assert not other.seen


# --- G-04 ---

FORBIDDEN = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[fe80::1]/x",
    "http://[::ffff:169.254.169.254]/x",
    "http://2852039166/x",
    "http://0.0.0.0/x",
    "file:///etc/passwd",
    "unix:///run/docker.sock",
    "gopher://127.0.0.1/x",
    "ftp://127.0.0.1/x",
    "http://user:pass@127.0.0.1/x",
    "http://",
    "",
]


@pytest.mark.parametrize("target", FORBIDDEN)
@pytest.mark.parametrize("place", ["redirect", "realm"])
async def test_G04_forbidden_targets_are_refused_without_a_connection(
    registry: MaliciousRegistry, target: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(small_image(), "a/b", "latest")
    if place == "redirect":
        registry.on("/manifests/", redirect(target))
    else:
        registry.challenge, registry.token = f'Bearer realm="{target}",service="x"', "t"
    reached: list[object] = []
    loop = asyncio.get_running_loop()
    original = loop.sock_connect

    async def counting(sock: object, address: tuple[str, int]) -> None:
        if address[1] != registry.port:
            reached.append(address)
        await original(sock, address)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "sock_connect", counting)
    async with await connect(registry) as client:
        with pytest.raises((Denied, Unavailable)):
            await client.manifest("a/b", "latest")
        assert not reached
        async with MaliciousRegistry(address="127.0.0.2") as other:  # what is not forbidden is reached
            other.add(small_image(), "a/b", "latest")
            registry.challenge = ""
            registry.on("/manifests/", redirect(f"{other.url}/v2/a/b/manifests/latest"))
            assert await client.manifest("a/b", "latest") is not None
            assert reached == [("127.0.0.2", other.port)]


async def test_G04_at_most_five_redirects_are_followed(registry: MaliciousRegistry) -> None:
    image = small_image()
    registry.add(image, "a/b", "latest")
    path = "/v2/a/b/manifests/latest"
    async with await connect(registry) as client:
        registry.on(path, *[redirect(path)] * 5)
        assert await client.manifest("a/b", "latest") is not None
        registry.on(path, *[redirect(path)] * 6)
        with pytest.raises(Unavailable, match="redirect"):
            await client.manifest("a/b", "latest")


# --- G-06 ---


@pytest.mark.parametrize(
    "fault", [stall(10), drip(0.01), mute()], ids=["silence", "one byte at a time", "no answer"]
)
async def test_G06_a_slow_body_fails_at_the_limit_while_others_go_on(
    registry: MaliciousRegistry, store: BlobStore, fault: Fault
) -> None:
    _, slow = big_blob(registry)
    _, fast = big_blob(registry)
    registry.always(f"/blobs/{slow.digest}", fault)
    async with await connect(registry, IMPATIENT) as client:
        stuck = asyncio.create_task(client.fetch_blob(store, "a/b", slow))
        await client.fetch_blob(store, "a/b", fast)
        with pytest.raises(Unavailable):
            await stuck
    assert [one.digest for one in store.list()] == [fast.digest]


async def test_G06_an_endless_manifest_ends_at_the_limit(registry: MaliciousRegistry) -> None:
    registry.add(small_image(), "a/b", "latest")
    registry.on("/manifests/", endless())
    async with await connect(registry) as client:
        with pytest.raises(Exhausted):
            await client.manifest("a/b", "latest")
        assert await client.manifest("a/b", "latest") is not None


async def test_G06_an_endless_blob_ends_at_its_promised_size(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    _, descriptor = big_blob(registry)
    registry.on("/blobs/", endless())
    async with await connect(registry) as client:
        with pytest.raises(Corrupt):
            await client.fetch_blob(store, "a/b", descriptor)
        assert is_empty(store)
        await client.fetch_blob(store, "a/b", descriptor)


async def test_G06_endless_pages_of_tags_end(registry: MaliciousRegistry) -> None:
    registry.tags["a/b"] = ["one", "two"]
    async with await connect(registry) as client:
        assert await client.tags("a/b") == ["one", "two"]
        registry.always("/tags/", headers(Link='</v2/a/b/tags/list?n=1000>; rel="next"'))
        with pytest.raises(Exhausted):
            await client.tags("a/b")


async def test_G06_pages_that_differ_each_time_end_too(registry: MaliciousRegistry) -> None:
    registry.tags["a/b"] = ["one"]
    count = 0

    def another(answer: object) -> object:
        nonlocal count
        count += 1
        return msg_replace(answer, f'</v2/a/b/tags/list?last={count}>; rel="next"')

    registry.always("/tags/", change(another))  # type: ignore[arg-type]
    async with await connect(registry, Limits(pages=20)) as client:
        with pytest.raises(Exhausted):
            await client.tags("a/b")
    assert len(registry.paths("/tags/")) == 20


def msg_replace(answer: object, link: str) -> object:
    from dataclasses import replace

    from malicious_registry import Answer

    assert isinstance(answer, Answer)
    return replace(answer, headers={**answer.headers, "Link": link})


async def test_G06_the_next_page_may_not_be_on_another_server(registry: MaliciousRegistry) -> None:
    registry.tags["a/b"] = ["one"]
    async with MaliciousRegistry(address="127.0.0.2") as other:
        registry.always("/tags/", headers(Link=f'<{other.url}/v2/a/b/tags/list>; rel="next"'))
        async with await connect(registry) as client:
            with pytest.raises(Denied):
                await client.tags("a/b")
        assert not other.seen


async def test_G06_a_huge_header_is_an_error_and_no_more(registry: MaliciousRegistry) -> None:
    registry.tags["a/b"] = ["one"]
    registry.on("/tags/", headers(Link="<" + "x" * 60_000 + '>; rel="next"'))
    async with await connect(registry) as client:
        assert await client.tags("a/b") == ["one"]


# --- G-07 ---

LIES: dict[str, Fault] = {
    "another range": headers(Content_Range="bytes 0-9/300000"),
    "no range": headers(Content_Range=""),
    "malformed range": headers(Content_Range="bytes 1-2-3/x"),
    "another total": headers(Content_Range="bytes 1000-299999/999999"),
    "another etag": headers(ETag='"other"'),
    "multipart": headers(Content_Type="multipart/byteranges; boundary=x"),
    "416": status(416),
}


@pytest.mark.parametrize("lie", list(LIES))
async def test_G07_a_lying_range_still_gives_the_right_blob(
    registry: MaliciousRegistry, store: BlobStore, lie: str
) -> None:
    data, descriptor = big_blob(registry)
    registry.on("/blobs/", truncate(1000), LIES[lie])
    async with await connect(registry) as client:
        await client.fetch_blob(store, "a/b", descriptor)
    assert store.read(descriptor.digest, limit=1 << 20) == data
    assert registry.seen[-1].headers.get("range") is None


async def test_G07_a_registry_without_ranges_gives_the_right_blob(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    data, descriptor = big_blob(registry)
    registry.ranges = False
    registry.on("/blobs/", truncate(100_000), truncate(200_000))
    async with await connect(registry) as client:
        await client.fetch_blob(store, "a/b", descriptor)
    assert store.read(descriptor.digest, limit=1 << 20) == data


async def test_G07_a_range_of_other_bytes_is_found_by_the_digest(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    _, descriptor = big_blob(registry)
    registry.on("/blobs/", truncate(1000), flip_bit(5))
    async with await connect(registry) as client:
        with pytest.raises(Corrupt):
            await client.fetch_blob(store, "a/b", descriptor)
        assert is_empty(store)
        await client.fetch_blob(store, "a/b", descriptor)


def resumed_at(registry: MaliciousRegistry) -> int:
    return int(registry.seen[-1].headers["range"].removeprefix("bytes=").removesuffix("-"))


async def test_Q16_a_resume_fetches_only_what_is_missing(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    _, descriptor = big_blob(registry, 8 << 20)
    registry.on("/blobs/", truncate(6 << 20))
    async with await connect(registry) as client:
        await client.fetch_blob(store, "a/b", descriptor)
    assert (5 << 20) < resumed_at(registry) <= (6 << 20)


async def test_Q16_a_new_process_resumes_too(registry: MaliciousRegistry, store: BlobStore) -> None:
    data, descriptor = big_blob(registry, 8 << 20)
    once = Limits(attempts=1, idle=2)
    registry.on("/blobs/", truncate(6 << 20))
    async with await connect(registry, once) as client:
        with pytest.raises(Unavailable):
            await client.fetch_blob(store, "a/b", descriptor)
    again = BlobStore.open(store.root)
    async with await connect(registry, once) as client:
        await client.fetch_blob(again, "a/b", descriptor)
    assert (5 << 20) < resumed_at(registry) <= (6 << 20)
    assert again.read(descriptor.digest, limit=8 << 20) == data


# --- G-08 ---


@pytest.mark.parametrize("value", ["1000000000", "-5", "Thu, 01 Jan 1970 00:00:00 GMT", "", "9" * 60, "soon"])
@pytest.mark.parametrize("code", [429, 503])
async def test_G08_absurd_retry_after_does_not_hold_us(
    registry: MaliciousRegistry, code: int, value: str
) -> None:
    registry.add(small_image(), "a/b", "latest")
    registry.on("/manifests/", *[status(code, {"Retry-After": value})] * 3)
    bound = 10 + QUICK.attempts * max(QUICK.retry_after, QUICK.backoff_cap)
    async with await connect(registry) as client, asyncio.timeout(bound):
        assert await client.manifest("a/b", "latest") is not None
        registry.always("/manifests/", status(code, {"Retry-After": value}))
        with pytest.raises(Unavailable):
            await client.manifest("a/b", "latest")
    assert len(registry.paths("/manifests/")) == 4 + QUICK.attempts, "neither given up nor hammered"


# --- G-09 ---


@pytest.mark.parametrize(
    "text", ["a/b\r\nX-Evil: 1", "a/b\n", "a b", "a/../b", "a?b", "a#b", "a/b\x00", "A/b"]
)
async def test_G09_no_name_reaches_the_wire_unchecked(registry: MaliciousRegistry, text: str) -> None:
    async with await connect(registry) as client:
        for attempt in (
            client.manifest(text, "latest"),
            client.manifest("a/b", text),
            client.tags(text),
            client.resolve(text, "latest"),
            client.push_manifest(text, "latest", b"{}", "a/b"),
        ):
            with pytest.raises(InvalidConfig):
                await attempt
    assert not registry.seen


async def test_G09_line_feeds_in_a_user_name_stay_inside_base64(registry: MaliciousRegistry) -> None:
    registry.add(small_image(), "a/b", "latest")
    registry.require_basic("joe\r\nX-Evil: 1", "x")
    keys = keys_for(registry, Credential("joe\r\nX-Evil: 1", "x"))
    async with await connect(registry, keys=keys) as client:
        await client.manifest("a/b", "latest")
    assert not any("x-evil" in one.headers for one in registry.seen)


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/v2/a/b/manifests/latest%0d%0aX-Evil:%201", "/v2/a/b/manifests/latest%0d%0aX-Evil:%201"),
        ("/v2/a/b/manifests/latest?x=%0D%0AX-Evil:%201", "/v2/a/b/manifests/latest?x=%0D%0AX-Evil:%201"),
        ("latest", "/v2/a/b/manifests/latest"),
    ],
)
async def test_G09_escaped_line_feeds_in_a_redirect_stay_escaped(
    registry: MaliciousRegistry, location: str, asked: str
) -> None:
    registry.add(small_image(), "a/b", "latest")
    registry.on("/manifests/", redirect(location))
    async with await connect(registry) as client:
        if "?" in location or "%" not in location:
            assert await client.manifest("a/b", "latest") is not None
        else:
            with pytest.raises(NotFound):
                await client.manifest("a/b", "latest")
    assert registry.seen[-1].path.lower() == asked.lower()
    assert not any("x-evil" in one.headers for one in registry.seen)


@pytest.mark.parametrize(
    "location",
    [b"/v2/x\rX-Evil: 1", b"/v2/x\nX-Evil: 1", b"/v2/x\r\n X-Evil: 1", b"/v2/x\0", b"/v2/x\x0bX-Evil: 1"],
)
async def test_G09_line_feeds_in_a_redirect_never_reach_the_wire(
    registry: MaliciousRegistry, location: bytes
) -> None:
    registry.add(small_image(), "a/b", "latest")
    head = b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n"
    registry.always("/manifests/latest", raw(head % location))
    async with await connect(registry, IMPATIENT) as client:
        with pytest.raises((Denied, Unavailable, NotFound)):
            await client.manifest("a/b", "latest")
    assert not any("x-evil" in one.headers or not one.path.isprintable() for one in registry.seen)


# --- G-11, G-12 ---


async def test_G12_pulls_while_the_tag_flips_each_get_one_whole_image(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    images = [small_image([{"a": b"1" * 5000}]), small_image([{"a": b"2" * 5000}])]
    for number, image in enumerate(images):
        registry.add(image, "a/b", f"v{number}")

    async def one(number: int) -> str:
        image = images[number % 2]
        registry.manifests["a/b", "latest"] = (image.manifest, image.media_type)
        return str((await pull(registry, store)).digest)

    digests = await asyncio.gather(*[one(number) for number in range(32)])
    assert set(digests) <= {image.digest for image in images}
    assert {str(found.digest) for found in store.list()} <= {name for image in images for name in image.blobs}


async def test_Q17_each_blob_is_fetched_once_however_many_ask(
    registry: MaliciousRegistry, store: BlobStore
) -> None:
    registry.add(small_image(), "a/b", "latest")
    await asyncio.gather(*[pull(registry, store) for _ in range(16)])
    assert len(registry.paths("/blobs/")) == 3


# --- every fault at every request ---

WIRE: dict[str, Fault] = {
    "429": status(429, {"Retry-After": "1"}),
    "500": status(500),
    "503": status(503, body=b"<html>"),
    "404": status(404),
    "401": status(401),
    "reset": reset(),
    "truncated": truncate(20),
    "ends early": end_early(20),
    "bit flip": flip_bit(7),
    "stall": stall(10),
    "redirect to nowhere": redirect("http://127.0.0.1:1/"),
    "empty": status(200),
    "teapot": status(418),
}


@pytest.mark.parametrize("name", list(WIRE))
@pytest.mark.parametrize("index", range(4))
async def test_Q16_every_fault_at_every_request_ends_in_a_whole_image_or_a_typed_error(
    registry: MaliciousRegistry, store: BlobStore, name: str, index: int
) -> None:
    image = small_image()
    registry.add(image, "a/b", "latest")
    registry.at(index, WIRE[name])
    try:
        await pull(registry, store)
    except MesocosmError as error:
        assert "\n" not in str(error)
    for stored in store.list():
        assert store.read(stored.digest, limit=1 << 20) == image.blobs[str(stored.digest)]
    await pull(registry, store)
    assert {str(one.digest) for one in store.list()} == set(image.blobs)


async def test_errors_quote_the_registry_on_one_bounded_line(registry: MaliciousRegistry) -> None:
    message = "go away\x1b[31m\r\n" + "x" * 5000
    body = json.dumps({"errors": [{"code": "DENIED", "message": message}]}).encode()
    registry.always("/manifests/", status(403, body=body))
    async with await connect(registry) as client:
        with pytest.raises(Denied, match="go away") as raised:
            await client.manifest("a/b", "latest")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 700
    assert f"mesocosm login {registry.host}" in str(raised.value)


async def test_a_missing_tag_is_named(registry: MaliciousRegistry) -> None:
    async with await connect(registry) as client:
        with pytest.raises(NotFound, match="a/b:nope"):
            await client.manifest("a/b", "nope")


# --- in words ---


@pytest.mark.parametrize(
    "body",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<title>400 The plain HTTP request was sent to HTTPS port</title>",
        b"Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
    ],
)
def test_plain_http_to_a_port_for_tls_is_told_as_such(body: bytes) -> None:
    """By the answer's status, and by its body where that breaks the protocol, as after a HEAD."""
    stray = aiohttp.ClientPayloadError(f"Data after `Connection: close`: {body!r}")
    for error in (
        status_fault(400, body, registry="127.0.0.1:1", what="a/b:1"),
        wire_fault(stray, registry="127.0.0.1:1", where="http://127.0.0.1:1", spoken=False),
    ):
        assert "speaks https" in error.message
        assert error.hint is not None and 'server = "https://127.0.0.1:1"' in error.hint
    other = status_fault(400, b'{"errors": [{"message": "bad tag"}]}', registry="r.io", what="a/b:1")
    assert other.message == "registry r.io answered 400 for a/b:1: bad tag"
