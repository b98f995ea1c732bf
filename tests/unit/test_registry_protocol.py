"""Corners of the distribution specification: where lists go on, URLs that are opaque, digests of another
algorithm, answers that were lost, warnings, and where registries lie.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from malicious_registry import (
    Answer,
    Fault,
    Joe,
    MaliciousRegistry,
    change,
    drop,
    for_method,
    headers,
    redirect,
    send,
    status,
)
from mesocosm.errors import Corrupt, MesocosmError, NotFound
from mesocosm.images import mediatypes
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import HEX_LENGTH, Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.progress import Phase, Progress
from mesocosm.images.reference import parse_reference
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.hosts import HostsConfig, endpoints_of
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.origin import next_url
from mesocosm.images.registry.pages import next_page, tag_of_referrers
from mesocosm.images.registry.transport import with_query
from mesocosm.images.registry.warnings import Warnings
from provisions import image_of, opened
from registry_fixtures import small_image
from tarballs import file

QUICK = Limits(attempts=4, backoff=0.001, backoff_cap=0.01, retry_after=0.01)
NOWHERE = HostsConfig(certs_dirs=())
DATA = os.urandom(100_000)
ONE = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))


@pytest.fixture
async def registry() -> AsyncIterator[MaliciousRegistry]:
    async with MaliciousRegistry() as one:
        yield one


async def connect(host: str, hosts: HostsConfig = NOWHERE, credentials: Joe | None = None) -> RegistryClient:
    return await RegistryClient.open(host, hosts=hosts, limits=QUICK, credentials=credentials)


async def source(offset: int, count: int) -> AsyncIterator[bytes]:
    yield DATA[offset : offset + count]


# --- lists ---


@pytest.mark.parametrize(
    ("link", "where"),
    [
        (['</a?last=1>; rel="next"'], "/a?last=1"),
        (["</a>; rel=next"], "/a"),
        (['</a>;rel="prev next"'], "/a"),
        (['</a>; title="x; rel=prev"; REL="NEXT"'], "/a"),
        (['</a>; rel="first", </b>; rel="next"'], "/b"),
        (['</a>; rel="first"', '</b>; rel="next"'], "/b"),
        (['</a,b>; n=1; rel="next"'], "/a,b"),
        (['</a>; rel="nextish"'], None),
        (['</a>; title="rel=next"'], None),
        (["</a>", "next", "", '<a b>; rel="next"'], None),
        ([";" * 8000, "<" * 8000, "</a>" + "; x" * 2000], None),
    ],
)
def test_where_a_list_goes_on(link: list[str], where: str | None) -> None:
    """RFC 8288: parameters in any order, several links, several relations, any case."""
    assert next_page(link) == where


async def test_every_page_tells_a_mirror_which_registry_is_meant(registry: MaliciousRegistry) -> None:
    hosts = HostsConfig(certs_dirs=(), mirrors={"far.example": (registry.url,)})
    registry.tags["a/b"] = ["one"]
    registry.on("/tags/", headers(Link='</v2/a/b/tags/list?last=one&n=1000>; rel="next"'))
    async with await connect("far.example", hosts) as client:
        assert await client.tags("a/b") == ["one", "one"]
    assert [URL(path).query["ns"] for path in registry.paths()] == ["far.example"] * 2


async def test_a_list_of_no_tags_is_null_in_some_registries(registry: MaliciousRegistry) -> None:
    registry.on("/tags/", status(200, body=b'{"name": "a/b", "tags": null}'))
    async with await connect(registry.host) as client:
        assert await client.tags("a/b") == []


# --- URLs that are opaque ---

OPAQUE = "/v2/a/b/blobs/uploads/upload0?_state=a%2Bb%2fc%7Ed%3D%3D&sig=x/y:z&empty="


def test_urls_of_registries_are_sent_back_byte_for_byte() -> None:
    here = URL("https://registry.example/v2/a/b/blobs/uploads/")
    for text in (OPAQUE, f"https://store.example{OPAQUE}", f"//store.example{OPAQUE}"):
        assert str(next_url(here, text, "x")).endswith(OPAQUE)
    assert str(with_query(next_url(here, OPAQUE, "x"), "digest", "sha256:00")).endswith(
        f"{OPAQUE}&digest=sha256:00"
    )
    assert str(with_query(URL("http://h/x?digest=old&y=1"), "digest", "new")) == "http://h/x?digest=new&y=1"
    assert next_url(here, "/x y%zz\u00e9", "x").raw_path == "/x%20y%25zz%C3%A9"


async def test_where_a_blob_goes_is_used_as_it_was_given(registry: MaliciousRegistry) -> None:
    registry.on("/blobs/uploads/", change(lambda one: Answer(one.status, {"Location": OPAQUE})))
    async with await connect(registry.host) as client:
        assert await client.push_blob("a/b", ONE, source)
    (sent,) = [one.path for one in registry.seen if one.method == "PUT"]
    assert sent == f"{OPAQUE}&digest={ONE.digest}"


async def test_redirects_are_followed_as_they_were_given(registry: MaliciousRegistry) -> None:
    registry.blobs[str(ONE.digest)] = DATA
    there = f"/v2/a/b/blobs/{ONE.digest}?signature=a%2Fb%2B%3d"
    registry.on(f"/blobs/{ONE.digest}", redirect(there))
    async with await connect(registry.host) as client:
        assert await client.read_blob("a/b", ONE) == DATA
    assert registry.seen[-1].path == there


# --- digests of another algorithm ---


async def test_a_pin_by_another_algorithm_than_the_registrys_own(registry: MaliciousRegistry) -> None:
    """ "the canonical digest … MAY differ from the provided digest": then the bytes decide."""
    image = small_image()
    registry.add(image, "a/b", "latest")
    pin = "sha512:" + hashlib.sha512(image.manifest).hexdigest()
    registry.manifests["a/b", pin] = registry.manifests["a/b", "latest"]  # with the sha256 in the header
    async with await connect(registry.host) as client:
        resolved = await client.resolve("a/b", pin)
        assert resolved is not None and str(resolved.digest) == pin
        wrong = "sha512:" + "0" * 128
        registry.manifests["a/b", wrong] = registry.manifests["a/b", "latest"]
        with pytest.raises(Corrupt):
            await client.resolve("a/b", wrong)


@pytest.mark.parametrize("claimed", ["sha512:" + "a" * 128, None])
async def test_a_blob_may_be_stored_by_another_algorithm(
    registry: MaliciousRegistry, claimed: str | None
) -> None:
    registry.on("digest=", headers(Docker_Content_Digest=claimed or str(ONE.digest)))
    async with await connect(registry.host) as client:
        assert await client.push_blob("a/b", ONE, source)


@pytest.mark.parametrize("claimed", ["sha256", "sha512"])
async def test_a_manifest_is_stored_under_the_digest_of_what_was_sent(
    registry: MaliciousRegistry, claimed: str
) -> None:
    image = small_image()
    other = f"{claimed}:" + hashlib.new(claimed, b"another").hexdigest()
    async with await connect(registry.host) as client:
        registry.on("/manifests/", headers(Docker_Content_Digest=other))
        if claimed == "sha256":
            with pytest.raises(Corrupt, match="under another digest"):
                await client.push_manifest("a/b", "1", image.manifest, image.media_type)
        put = client.push_manifest("a/b", "1", image.manifest, image.media_type)
        assert str(await put) == image.digest


# --- pushing ---


def answer_lost(stored: Callable[[], bool]) -> Fault:
    """Do what was asked, and break off before it is told."""

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        assert stored()
        drop(request)
        return web.StreamResponse()

    return fault


async def test_an_upload_that_was_closed_by_a_request_whose_answer_was_lost(
    registry: MaliciousRegistry,
) -> None:
    async def closed(request: web.Request, _: Answer) -> web.StreamResponse:
        return await send(request, Answer(404, body=b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}'))

    registry.on("digest=", answer_lost(lambda: str(ONE.digest) in registry.blobs), closed)
    async with await connect(registry.host) as client:
        assert await client.push_blob("a/b", ONE, source, chunk=30_000)
        other = Descriptor(ONE.media_type, Digest.of(DATA[::-1]), ONE.size)
        registry.on("digest=", closed)
        with pytest.raises(NotFound):  # it is not there, whatever became of the upload
            await client.push_blob("a/b", other, source, chunk=30_000)


async def test_a_401_in_the_middle_of_an_upload_is_answered_and_the_bytes_sent_again(
    registry: MaliciousRegistry,
) -> None:
    registry.require_token(user=("joe", "s3cr3t-w0rd"))
    refuse = status(401, {"WWW-Authenticate": f'Bearer realm="{registry.url}/token",service="test"'})
    for chunk in (None, 30_000):
        registry.blobs.clear()
        registry.uploads.clear()
        before = len(registry.paths("/token"))

        async def refused(request: web.Request, answer: Answer) -> web.StreamResponse:
            registry.uploads["upload0"].clear()  # what came with a request that is refused does not count
            return await refuse(request, answer)

        registry.on("/uploads/upload0", refused)
        async with await connect(registry.host, credentials=Joe()) as client:
            assert await client.push_blob("a/b", ONE, source, chunk=chunk)
        assert registry.blobs[str(ONE.digest)] == DATA
        assert len(registry.paths("/token")) > before + 1


@pytest.mark.parametrize("refusal", [403, 404, 405])
async def test_where_mounting_is_refused_the_blob_is_sent(
    registry: MaliciousRegistry, tmp_path: Path, refusal: int
) -> None:
    image = image_of([[file(b"a", b"a")]])
    registry.add(image, "a/home", "latest")
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(f"{registry.host}/a/home:latest")
        registry.blobs.clear()
        registry.always("mount=", status(refusal))
        await provisioner.push(f"{registry.host}/a/home:latest", f"{registry.host}/a/b:1")
    assert registry.paths("mount=")
    assert set(registry.blobs) == set(image.blobs)


# --- warnings ---


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (['299 - "soon over"'], ("soon over",)),
        (['299 - "one", 299 - "two"', '299 - "one"'], ("one", "two")),
        (['299 - "quoted \\"word\\" \x1b[2J"'], ('quoted "word" ?[2J',)),
        (['199 - "x"', "299 - x", ""], ()),
        ([", ".join(f'299 - "{number}"' for number in range(100))], tuple(map(str, range(16)))),
        (['299 - "' + "x" * 4000 + '"'], ("x" * 300 + "...",)),
    ],
)
def test_what_warnings_say(sent: list[str], told: tuple[str, ...]) -> None:
    warnings = Warnings()
    warnings.note(sent)
    warnings.note(sent)
    assert warnings.take() == told
    assert warnings.take() == ()


async def test_warnings_come_to_who_pulls_and_pushes_once(
    registry: MaliciousRegistry, tmp_path: Path
) -> None:
    registry.add(image_of([[file(b"a", b"a")]]), "a/b", "latest")
    registry.always("/", headers(Warning='299 - "this registry closes in May"'))
    name, told = f"{registry.host}/a/b:latest", list[Progress]()
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(name, progress=told.append)
        await provisioner.pull(name, progress=told.append)
        await provisioner.push(name, f"{registry.host}/a/new:1", progress=told.append)
    warned = [one.subject for one in told if one.phase is Phase.WARNING]
    assert warned == [f"registry {registry.host}: this registry closes in May"] * 2


async def test_strangers_warnings_are_not_told(registry: MaliciousRegistry, tmp_path: Path) -> None:
    image = image_of([[file(b"a", b"a")]])
    registry.add(image, "a/b", "latest")
    told = list[Progress]()
    async with MaliciousRegistry(address="127.0.0.2") as other, opened(tmp_path) as provisioner:
        other.add(image, "a/b", "latest")
        other.always("/", headers(Warning='299 - "trust me"'))
        registry.always("/manifests/", redirect(f"{other.url}/v2/a/b/manifests/latest"))
        await provisioner.pull(f"{registry.host}/a/b:latest", progress=told.append)
    assert other.seen and not [one for one in told if one.phase is Phase.WARNING]


# --- where registries lie ---


async def test_an_ipv6_literal(tmp_path: Path) -> None:
    async with MaliciousRegistry(address="::1") as registry:
        host = f"[::1]:{registry.port}"
        image = image_of([[file(b"a", b"a")]])
        registry.add(image, "a/b", "latest")
        async with opened(tmp_path) as provisioner:
            assert (await provisioner.pull(f"{host}/a/b:latest")).digest == image.digest
            assert await provisioner.push(f"{host}/a/b:latest", f"{host}/a/c:1") == image.digest
        assert {one.headers["host"] for one in registry.seen} == {host}


async def test_a_registry_behind_a_path(registry: MaliciousRegistry, tmp_path: Path) -> None:
    """hosts.toml names it; what it answers relative to the server's root leads there."""
    registry.blobs[str(ONE.digest)] = DATA

    async def beneath(request: web.Request, _: Answer) -> web.StreamResponse:
        assert request.path.startswith("/team/registry/v2/")
        return await send(request, Answer(200, {"Content-Length": str(len(DATA))}, DATA))

    registry.always("/team/registry/", beneath)
    place = tmp_path / "far.example"
    place.mkdir()
    (place / "hosts.toml").write_text(f'server = "{registry.url}/team/registry"\n')
    hosts = HostsConfig(certs_dirs=(tmp_path,))
    store = BlobStore.open(tmp_path / "store")
    async with await connect("far.example", hosts) as client:
        await client.fetch_blob(store, "a/b", ONE)
    assert store.has(ONE.digest)
    assert registry.paths() == [f"/team/registry/v2/a/b/blobs/{ONE.digest}"]


@pytest.mark.parametrize(
    ("text", "registry", "repository"),
    [
        ("debian", "docker.io", "library/debian"),
        ("team/app", "docker.io", "team/app"),
        ("docker.io/debian", "docker.io", "library/debian"),
        ("index.docker.io/library/debian", "docker.io", "library/debian"),
        ("localhost/app", "localhost", "app"),
        ("localhost:5000/app", "localhost:5000", "app"),
        ("[::1]:5000/app", "[::1]:5000", "app"),
        ("host:5000/app", "host:5000", "app"),
        ("host.example/app", "host.example", "app"),
    ],
)
def test_which_registry_a_name_means(text: str, registry: str, repository: str) -> None:
    found = parse_reference(text)
    assert (found.registry, found.repository) == (registry, repository)


@pytest.mark.parametrize(
    ("registry", "base"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("localhost", "http://localhost"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.9.8.7:5000", "http://127.9.8.7:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("localhost.example", "https://localhost.example"),
        ("127.0.0.1.example", "https://127.0.0.1.example"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
        ("[fe80::1]", "https://[fe80::1]"),
    ],
)
def test_plain_http_is_spoken_on_loopback_alone(registry: str, base: str) -> None:
    (only,) = endpoints_of(registry, NOWHERE)
    assert only.base == base


@pytest.mark.parametrize("refusal", [404, 405])
async def test_HEAD_that_is_refused_does_not_hide_a_manifest(
    registry: MaliciousRegistry, refusal: int
) -> None:
    image = small_image()
    registry.add(image, "a/b", "latest")
    registry.always("/manifests/", for_method("HEAD", status(refusal)))
    async with await connect(registry.host) as client:
        resolved = await client.resolve("a/b", "latest")
        assert resolved is not None and str(resolved.digest) == image.digest
        with pytest.raises(MesocosmError):
            await client.resolve("a/b", "none")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_tag_of_referrers_has_64_digits_of_the_digest(algorithm: str) -> None:
    """The table of "Referrers Tag Schema", its first two rows."""
    digest = Digest(algorithm, "a" * HEX_LENGTH[algorithm])
    assert tag_of_referrers(digest) == f"{algorithm}-{'a' * 64}"


async def test_what_refers_to_a_digest_of_another_algorithm_is_found_by_its_tag(
    registry: MaliciousRegistry,
) -> None:
    subject = hashlib.sha512(b"an image")
    data = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
    registry.serve_manifest("a/b", f"sha512-{subject.hexdigest()[:64]}", data, mediatypes.OCI_INDEX)
    async with await connect(registry.host) as client:
        assert await client.referrers("a/b", Digest("sha512", subject.hexdigest())) == ()
    assert registry.paths("/manifests/")[-1].endswith(subject.hexdigest()[:64])


PORTALS: dict[str, Fault] = {
    "a web page": status(200, {"Content-Type": "text/html"}, b"<html>log in first</html>"),
    "a page that hides": status(200, {"Content-Type": "text/plain"}, b"<html>log in first</html>"),
    "some JSON": status(200, {"Content-Type": "application/json"}, b'{"status": "ok"}'),
    "nothing": status(200),
}


@pytest.mark.parametrize("portal", PORTALS.values(), ids=PORTALS.keys())
async def test_a_mirror_that_answers_with_something_else_is_passed_over(
    registry: MaliciousRegistry, portal: Fault
) -> None:
    image = small_image()
    registry.add(image, "a/b", "latest")
    async with MaliciousRegistry() as mirror:
        hosts = HostsConfig(certs_dirs=(), mirrors={registry.host: (mirror.url,)})
        mirror.always("/manifests/", portal)
        async with await connect(registry.host, hosts) as client:
            reply = await client.manifest("a/b", "latest")
        assert reply is not None and str(reply.digest) == image.digest
        assert mirror.paths("/manifests/") and registry.paths("/manifests/")
    registry.always("/manifests/", portal)  # and where nobody has better it is refused
    async with await connect(registry.host) as client:
        with pytest.raises(Corrupt):
            await client.manifest("a/b", "latest")
