"""The client against Debian's docker-registry and skopeo: what we push they read, what they push we read."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fixtures.images import Layout
from fixtures.registry import Registry
from mesocosm.errors import Corrupt, Denied, MesocosmError, NotFound
from mesocosm.images import mediatypes
from mesocosm.images.blobs import BlobStore
from mesocosm.images.config import match_layers, parse_config
from mesocosm.images.digest import Digest
from mesocosm.images.documents import (
    EMPTY,
    Descriptor,
    Index,
    Manifest,
    descriptor_json,
    parse_descriptor,
    parse_document,
)
from mesocosm.images.platform import parse_platform
from mesocosm.images.progress import Progress
from mesocosm.images.registry import pages
from mesocosm.images.registry.auth import Credential
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.credentials import Credentials
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.push import UploadSource
from registry_fixtures import SmallImage, sha256, skopeo_copy, small_image, write_layout

NOWHERE = HostsConfig(certs_dirs=())
OCTETS = "application/octet-stream"


@pytest.fixture
async def client(registry: Registry) -> AsyncIterator[RegistryClient]:
    async with await RegistryClient.open(registry.host, hosts=NOWHERE) as one:
        yield one


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "store")


def source_of(data: bytes) -> UploadSource:
    async def source(offset: int, count: int) -> AsyncIterator[bytes]:
        for at in range(offset, offset + count, 50_000):
            yield data[at : min(at + 50_000, offset + count)]

    return source


def descriptor_of(data: bytes, media_type: str = OCTETS) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data))


def noise(seed: str, size: int) -> bytes:
    return hashlib.shake_256(seed.encode()).digest(size)


async def push_image(
    client: RegistryClient, repository: str, image: SmallImage, tag: str, chunk: int | None = None
) -> None:
    for data in (image.config, *image.layers):
        await client.push_blob(repository, descriptor_of(data), source_of(data), chunk=chunk)
    assert str(await client.push_manifest(repository, tag, image.manifest, image.media_type)) == image.digest


async def pull_image(client: RegistryClient, store: BlobStore, repository: str, tag: str) -> Manifest:
    reply = await client.manifest(repository, tag)
    assert reply is not None
    manifest = parse_document(reply.data, content_type=reply.media_type)
    assert isinstance(manifest, Manifest)
    manifest.require_image(repository)
    config = parse_config(await client.read_blob(repository, manifest.config))
    match_layers(manifest, config, repository)
    for one in (manifest.config, *manifest.layers):
        await client.fetch_blob(store, repository, one)
    return manifest


@pytest.mark.parametrize("form", ["oci", "v2s2"])
async def test_what_skopeo_pushes_we_pull_byte_for_byte(
    registry: Registry, client: RegistryClient, store: BlobStore, tmp_path: Path, form: str
) -> None:
    image = small_image()
    layout = write_layout(image, tmp_path / "layout")
    registry.push(Layout(layout, "latest"), f"from-skopeo/{form}:1", "--format", form)
    manifest = await pull_image(client, store, f"from-skopeo/{form}", "1")
    expected = mediatypes.OCI_MANIFEST if form == "oci" else mediatypes.DOCKER_MANIFEST
    assert manifest.media_type == expected
    assert [str(layer.digest) for layer in manifest.layers] == [sha256(data) for data in image.layers]
    for data in image.layers:
        assert store.read(Digest.of(data), limit=1 << 20) == data


async def test_a_real_image_is_pulled_whole(
    client: RegistryClient, store: BlobStore, pushed_busybox: str
) -> None:
    repository, _, tag = pushed_busybox.partition("/")[2].partition(":")
    manifest = await pull_image(client, store, repository, tag)
    assert {one.digest for one in store.list()} == {one.digest for one in (manifest.config, *manifest.layers)}


@pytest.mark.parametrize("chunk", [0, 1000, 100_000])
async def test_what_we_push_skopeo_pulls(
    registry: Registry, client: RegistryClient, tmp_path: Path, chunk: int
) -> None:
    image = small_image([{"big": noise(f"push {chunk}", 250_000)}, {"small": b"x"}])
    repository = f"from-us/chunk{chunk}"
    await push_image(client, repository, image, "1", chunk=chunk)
    skopeo_copy(f"docker://{registry.host}/{repository}:1", f"oci:{tmp_path}/back:1")
    index = json.loads((tmp_path / "back" / "index.json").read_text())
    assert index["manifests"][0]["digest"] == image.digest
    for digest, data in image.blobs.items():
        assert (tmp_path / "back" / "blobs" / "sha256" / digest[7:]).read_bytes() == data


async def test_pushing_again_sends_nothing_and_mounting_copies_nothing(
    registry: Registry, client: RegistryClient
) -> None:
    data = noise("mount", 100_000)
    one, reports = descriptor_of(data), list[Progress]()
    assert await client.push_blob("mount/a", one, source_of(data), report=reports.append)
    assert (reports[-1].done, reports[-1].finished) == (len(data), True)
    before = len(registry.requests())
    assert not await client.push_blob("mount/a", one, source_of(data))
    assert not await client.push_blob("mount/b", one, source_of(b""), mount_from="mount/a")
    assert await client.has_blob("mount/b", one.digest)
    sent = [line.partition(" ")[0] for line in registry.requests()[before:]]
    assert "PATCH" not in sent
    assert "PUT" not in sent


async def test_mounting_from_where_it_is_not_uploads(client: RegistryClient) -> None:
    data = noise("mount nowhere", 1000)
    assert await client.push_blob("mount/c", descriptor_of(data), source_of(data), mount_from="mount/nowhere")
    assert await client.read_blob("mount/c", descriptor_of(data)) == data


async def test_a_push_of_other_bytes_is_refused(client: RegistryClient) -> None:
    data = noise("wrong", 1000)
    with pytest.raises(MesocosmError):
        await client.push_blob("wrong/a", descriptor_of(data), source_of(data[::-1]))
    assert not await client.has_blob("wrong/a", Digest.of(data))


@pytest.mark.parametrize("end", ["the source fails", "the task is cancelled"])
async def test_an_upload_that_is_given_up_leaves_nothing_in_the_registry(
    client: RegistryClient, registry: Registry, end: str
) -> None:
    """Which would keep what it was sent for days."""
    data = b"given up" * 20_000
    sent = asyncio.Event()

    async def source(offset: int, count: int) -> AsyncIterator[bytes]:
        if offset:
            sent.set()
            if end == "the source fails":
                raise Corrupt("the blob is damaged")
            await asyncio.sleep(3600)
        yield data[offset : offset + count]

    name = f"given-up/{end.split()[1]}"
    push = asyncio.create_task(client.push_blob(name, descriptor_of(data), source, chunk=50_000))
    await sent.wait()
    uploads = registry.storage / f"docker/registry/v2/repositories/{name}/_uploads"
    assert list(uploads.glob("*/data"))
    if end == "the task is cancelled":
        push.cancel()
    with pytest.raises((Corrupt, asyncio.CancelledError)):
        await push
    assert not list(uploads.glob("*/data"))


async def test_a_half_fetched_blob_is_resumed_by_range(
    registry: Registry, client: RegistryClient, store: BlobStore
) -> None:
    data = noise("resume", 500_000)
    one, reports = descriptor_of(data), list[Progress]()
    await client.push_blob("resume/a", one, source_of(data))
    ingest = store.begin(one.digest, one.size)
    assert ingest is not None
    with ingest:
        ingest.write(data[:300_000])
    await client.fetch_blob(store, "resume/a", one, report=reports.append)
    assert store.read(one.digest, limit=1 << 20) == data
    assert (reports[0].done, reports[0].resumed) == (300_000, 300_000)


async def test_tags_come_in_pages(client: RegistryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE", 2)
    image = small_image()
    await push_image(client, "paged/a", image, "t0")
    for number in range(1, 7):
        await client.push_manifest("paged/a", f"t{number}", image.manifest, image.media_type)
    assert sorted(await client.tags("paged/a")) == [f"t{number}" for number in range(7)]


async def test_an_index_is_resolved_to_one_platform(client: RegistryClient, store: BlobStore) -> None:
    images = {name: small_image([{"arch": name.encode()}]) for name in ("amd64", "arm64")}
    entries = []
    for name, image in images.items():
        await push_image(client, "multi/a", image, name)
        manifest = parse_document(image.manifest)
        platform = {"platform": {"os": "linux", "architecture": name}}
        entries.append({**descriptor_json(manifest.descriptor), **platform})
    data = json.dumps({"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": entries}).encode()
    await client.push_manifest("multi/a", "latest", data, mediatypes.OCI_INDEX)
    reply = await client.manifest("multi/a", "latest")
    assert reply is not None
    index = parse_document(reply.data, content_type=reply.media_type)
    assert isinstance(index, Index)
    chosen = index.select(parse_platform("linux/arm64"), "multi/a")
    assert (
        str((await pull_image(client, store, "multi/a", str(chosen.digest))).digest) == images["arm64"].digest
    )


async def test_referrers_are_found_by_the_tag_scheme(client: RegistryClient) -> None:
    image = small_image([{"signed": b"1"}])
    await push_image(client, "signed/a", image, "latest")
    await client.push_blob("signed/a", EMPTY, source_of(b"{}"))
    subject = parse_document(image.manifest).descriptor
    assert await client.referrers("signed/a", subject.digest) == ()
    signature = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": descriptor_json(EMPTY),
        "layers": [descriptor_json(EMPTY)],
        "subject": descriptor_json(subject),
    }
    data = json.dumps(signature).encode()
    digest = await client.push_manifest("signed/a", sha256(data), data, mediatypes.OCI_MANIFEST)
    entry = {
        "mediaType": mediatypes.OCI_MANIFEST,
        "digest": str(digest),
        "size": len(data),
        "artifactType": "application/vnd.example.signature",
    }
    await client.push_manifest("signed/a", sha256(data), data, mediatypes.OCI_MANIFEST)
    assert f"sha256-{subject.digest.hex}" in await client.tags("signed/a")
    kind = "application/vnd.example.signature"
    found = await client.referrers("signed/a", subject.digest, artifact_type=kind)
    assert found == (parse_descriptor(json.loads(json.dumps(entry)), "entry"),)
    assert await client.referrers("signed/a", subject.digest, artifact_type="application/vnd.other") == ()


async def test_deleting(client: RegistryClient) -> None:
    image = small_image([{"doomed": b"1"}])
    await push_image(client, "doomed/a", image, "latest")
    await client.delete("doomed/a", Digest.parse(image.digest))
    with pytest.raises(NotFound):
        await client.manifest("doomed/a", "latest")
    layer = Digest.of(image.layers[0])
    await client.delete("doomed/a", layer, is_blob=True)
    assert not await client.has_blob("doomed/a", layer)


async def test_missing_things_are_not_found(client: RegistryClient, store: BlobStore) -> None:
    missing = descriptor_of(b"missing")
    with pytest.raises(NotFound, match="nowhere/a"):
        await client.manifest("nowhere/a", "latest")
    with pytest.raises(NotFound):
        await client.resolve("nowhere/a", sha256(b"x"))
    with pytest.raises(NotFound):
        await client.fetch_blob(store, "nowhere/a", missing)
    with pytest.raises(NotFound):
        await client.tags("nowhere/a")
    assert not list((store.root / "ingest").iterdir())


async def test_G01_a_blob_changed_in_the_registrys_own_storage_is_refused(
    registry: Registry, client: RegistryClient, store: BlobStore
) -> None:
    data = noise("bit rot", 50_000)
    one = descriptor_of(data)
    await client.push_blob("rotten/a", one, source_of(data))
    (stored,) = registry.storage.rglob(f"blobs/sha256/{one.digest.hex[:2]}/{one.digest.hex}/data")
    stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(Corrupt):
        await client.fetch_blob(store, "rotten/a", one)
    assert not list(store.list())
    stored.write_bytes(data)
    await client.fetch_blob(store, "rotten/a", one)


async def test_basic_authentication_against_htpasswd(tmp_path: Path) -> None:
    password = "p\u00e4ss:w0rd"
    with Registry(tmp_path / "registry", user="joe", password=password) as private:
        config = tmp_path / "config.json"
        credentials = Credentials([config])
        image = small_image()
        async with await RegistryClient.open(
            private.host, hosts=NOWHERE, credentials=credentials
        ) as stranger:
            with pytest.raises(Denied, match=f"mesocosm login {private.host}"):
                await stranger.log_in()
        await credentials.login(private.host, Credential("joe", "wrong"))
        async with await RegistryClient.open(private.host, hosts=NOWHERE, credentials=credentials) as wrong:
            with pytest.raises(Denied):
                await wrong.log_in()
        await credentials.login(private.host, Credential("joe", password))
        async with await RegistryClient.open(private.host, hosts=NOWHERE, credentials=credentials) as joe:
            await joe.log_in()
            await push_image(joe, "private/a", image, "1", chunk=100)
            await pull_image(joe, BlobStore.open(tmp_path / "store"), "private/a", "1")
        # The file is docker's own format: skopeo logs in with it.
        skopeo_copy(
            f"docker://{private.host}/private/a:1", f"oci:{tmp_path}/back:1", "--authfile", str(config)
        )
        entry = json.loads(config.read_text())["auths"][private.host]
        assert base64.b64decode(entry["auth"]).decode() == f"joe:{password}"
