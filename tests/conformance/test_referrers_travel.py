"""What is attached to images goes where they go: signatures, SBOMs, attestations; and is taken away again."""

from __future__ import annotations

import http.client
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fixtures.command import run
from fixtures.registry import Registry
from malicious_registry import MaliciousRegistry
from mesocosm.errors import Corrupt, Exhausted, MesocosmError, NotFound
from mesocosm.images import attaching
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.push import UploadSource
from provisions import image_of, opened
from registry_fixtures import OCI_INDEX, OCI_MANIFEST, SmallImage, sha256
from tarballs import file

IN_TOTO = "application/vnd.in-toto+json"
NOWHERE = HostsConfig(certs_dirs=())
IMAGES = {one: image_of([[file(b"who", one.encode())]], architecture=one) for one in ("amd64", "arm64")}


def source_of(data: bytes) -> UploadSource:
    async def source(offset: int, count: int) -> AsyncIterator[bytes]:
        yield data[offset : offset + count]

    return source


def described(data: bytes, media_type: str, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


def artifact(content: bytes, subject: bytes | None, kind: str = "text/signature") -> tuple[bytes, bytes]:
    """A manifest that refers to another one, and its only layer."""
    manifest: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": described(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [described(content, kind)],
    }
    if subject is not None:
        manifest["subject"] = described(subject, OCI_MANIFEST)
    return json.dumps(manifest).encode(), content


class Pushed:
    """A repository filled by the client; ``index`` lists two platforms, each with an attestation."""

    def __init__(self, client: RegistryClient, repository: str) -> None:
        self._client = client
        self._repository = repository
        self.index = b""
        self.attestations: list[str] = []

    async def blob(self, data: bytes) -> None:
        one = Descriptor("application/octet-stream", Digest.of(data), len(data))
        await self._client.push_blob(self._repository, one, source_of(data))

    async def manifest(self, data: bytes, *blobs: bytes, tag: str = "", kind: str = OCI_MANIFEST) -> str:
        for blob in blobs:
            await self.blob(blob)
        await self._client.push_manifest(self._repository, tag or sha256(data), data, kind)
        return sha256(data)

    async def image(self, image: SmallImage, tag: str = "") -> str:
        return await self.manifest(image.manifest, *image.blobs.values(), tag=tag)

    async def several(self, tag: str) -> None:
        entries = []
        for architecture, image in IMAGES.items():
            await self.image(image)
            platform = {"os": "linux", "architecture": architecture}
            entries.append(described(image.manifest, OCI_MANIFEST, platform=platform))
        for architecture, image in IMAGES.items():
            made, content = artifact(f"attests {architecture}".encode(), None, IN_TOTO)
            self.attestations.append(await self.manifest(made, content, b"{}"))
            named = {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": image.digest,
            }
            unknown = {"os": "unknown", "architecture": "unknown"}
            entries.append(described(made, OCI_MANIFEST, platform=unknown, annotations=named))
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        self.index = json.dumps(document).encode()
        await self.manifest(self.index, tag=tag, kind=OCI_INDEX)


@pytest.fixture
async def client(registry: Registry) -> AsyncIterator[RegistryClient]:
    async with await RegistryClient.open(registry.host, hosts=NOWHERE) as one:
        yield one


async def listed(client: RegistryClient, repository: str, digest: str) -> set[str]:
    return {str(one.digest) for one in await client.referrers(repository, Digest.parse(digest))}


async def is_whole(client: RegistryClient, repository: str, digest: str) -> None:
    """A manifest and its blobs are there."""
    reply = await client.manifest(repository, digest)
    assert reply is not None
    document = json.loads(reply.data)
    for one in (document["config"], *document["layers"]):
        assert await client.has_blob(repository, Digest.parse(one["digest"]))


async def signed(client: RegistryClient, repository: str) -> tuple[str, str, str]:
    """An image with a signature, one of the signature's own, and one of cosign's."""
    pushed, image = Pushed(client, repository), IMAGES["amd64"]
    await pushed.image(image, "1")
    one, content = artifact(f"signature {repository}".encode(), image.manifest)
    first = await pushed.manifest(one, content, b"{}")
    two, content = artifact(b"countersignature", one)
    second = await pushed.manifest(two, content, b"{}")
    three, content = artifact(b"cosign's", None)
    third = await pushed.manifest(three, content, b"{}", tag=f"{image.digest.replace(':', '-')}.sig")
    return first, second, third


async def pushed_on(provisioner: Provisioner, source: str, target: str, *, referrers: bool = False) -> None:
    assert await provisioner.push(source, target, referrers=referrers) == IMAGES["amd64"].digest


async def test_referrers_are_pushed_along(registry: Registry, client: RegistryClient, tmp_path: Path) -> None:
    """From registry to registry, by this store: asked for when pulling, or when pushing; not unless asked."""
    first, second, third = await signed(client, "refer/source")
    image = IMAGES["amd64"]
    name = f"{registry.host}/refer/source:1"
    for number in range(2):
        (folder := tmp_path / str(number)).mkdir()
        plain, target = f"refer/plain{number}", f"refer/target{number}"
        async with opened(folder) as provisioner:
            await provisioner.pull(name, referrers=number == 0)
            await pushed_on(provisioner, name, f"{registry.host}/{plain}:1")
            await pushed_on(provisioner, name, f"{registry.host}/{target}:1", referrers=True)
            assert (await provisioner.prune()).empty
        assert await listed(client, plain, image.digest) == set()
        assert await listed(client, target, image.digest) == {first}
        assert await listed(client, target, first) == {second}
        for one in (first, second, f"{image.digest.replace(':', '-')}.sig"):
            await is_whole(client, target, one)
        found = await client.resolve(target, f"{image.digest.replace(':', '-')}.sig")
        assert found is not None
        assert str(found.digest) == third


async def test_what_is_attached_goes_with_its_image(
    registry: Registry, client: RegistryClient, tmp_path: Path
) -> None:
    first, second, third = await signed(client, "refer/going")
    name = f"{registry.host}/refer/going:1"
    async with opened(tmp_path) as provisioner:
        store = provisioner.store
        await provisioner.pull(name, referrers=True)
        kept = {str(stored.digest) for stored in store.blobs.list()}
        assert {first, second, third} <= kept
        assert (await provisioner.verify(name)).sound
        await provisioner.remove(name)
        assert list(store.blobs.list()) == []
        assert list((store.root / "attached").iterdir()) == []


async def test_a_record_that_cannot_be_read_is_made_anew(
    registry: Registry, client: RegistryClient, tmp_path: Path
) -> None:
    first, second, third = await signed(client, "refer/damaged")
    name = f"{registry.host}/refer/damaged:1"
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(name, referrers=True)
        (record,) = (provisioner.store.root / "attached").iterdir()
        record.write_bytes(record.read_bytes()[:-9])
        assert not (await provisioner.prune()).empty
        await pushed_on(provisioner, name, f"{registry.host}/refer/again:1", referrers=True)
    assert await listed(client, "refer/again", IMAGES["amd64"].digest) == {first}
    await is_whole(client, "refer/again", second)
    await is_whole(client, "refer/again", third)


async def test_attestations_stay_in_their_index(
    registry: Registry, client: RegistryClient, tmp_path: Path
) -> None:
    """Pulled, pushed, saved, loaded: the index keeps its bytes; and a signature of it goes along."""
    pushed = Pushed(client, "attest/source")
    await pushed.several("1")
    index = sha256(pushed.index)
    signature, content = artifact(b"signs the index", pushed.index)
    await pushed.manifest(signature, content, b"{}")
    name, target = f"{registry.host}/attest/source:1", f"{registry.host}/attest/target:1"
    saved = tmp_path / "saved.tar"
    (first := tmp_path / "first").mkdir()
    (second := tmp_path / "second").mkdir()
    async with opened(first) as provisioner:
        assert len(await provisioner.pull_all(name, referrers=True)) == 2
        assert await provisioner.push(name, target, platform="all", referrers=True) == index
        with open(saved, "wb") as file:
            await provisioner.save([name], file.fileno(), platform="all", referrers=True)
        again = tmp_path / "again.tar"
        with open(again, "wb") as file:
            await provisioner.save([name], file.fileno(), platform="all", referrers=True)
        assert saved.read_bytes() == again.read_bytes()
    for one in pushed.attestations:
        await is_whole(client, "attest/target", one)
    assert await listed(client, "attest/target", index) == {sha256(signature)}
    raw = run("skopeo", "inspect", "--raw", f"oci-archive:{saved}:1")
    assert sha256(raw.encode()) == index
    async with opened(second) as provisioner:
        assert len(await provisioner.load(saved, platform="all")) == 2
        await provisioner.prune()
        loaded = f"{registry.host}/attest/loaded:1"
        assert await provisioner.push(name, loaded, platform="all", referrers=True) == index
        renamed = f"{registry.host}/attest/renamed:1"
        await provisioner.tag(name, renamed, platform="all")
        await provisioner.remove(name, platform="all")
        assert await provisioner.platforms(renamed) == ["linux/amd64", "linux/arm64"]
        assert await provisioner.push(renamed, platform="all") == index
    for repository in ("attest/loaded", "attest/renamed"):
        for one in pushed.attestations:
            await is_whole(client, repository, one)
    assert await listed(client, "attest/loaded", index) == {sha256(signature)}
    assert await listed(client, "attest/renamed", index) == set()


async def test_the_attestation_of_one_platform_goes_with_it(
    registry: Registry, client: RegistryClient, tmp_path: Path
) -> None:
    pushed = Pushed(client, "attest/some")
    await pushed.several("1")
    name, target = f"{registry.host}/attest/some:1", f"{registry.host}/attest/one:1"
    async with opened(tmp_path) as provisioner:
        await provisioner.pull_all(name)
        await provisioner.remove(name, platform="linux/arm64")
        digest = await provisioner.push(name, target, platform="all")
    reply = await client.manifest("attest/one", digest)
    assert reply is not None
    entries = {one["digest"] for one in json.loads(reply.data)["manifests"]}
    assert entries == {IMAGES["amd64"].digest, pushed.attestations[0]}


async def test_loaded_layouts_of_others_bring_what_refers(tmp_path: Path) -> None:
    """An archive in which artifacts lie beside the image; one that refers to nothing is refused as before."""
    image = IMAGES["amd64"]
    made, content = artifact(b"an SBOM", image.manifest, "application/spdx+json")
    stray, other = artifact(b"a chart", None)
    for number, artifacts in enumerate(([(made, content)], [(stray, other)])):
        (folder := tmp_path / str(number) / "layout").mkdir(parents=True)
        blobs = folder / "blobs/sha256"
        blobs.mkdir(parents=True)
        for data in (image.manifest, *image.blobs.values(), b"{}", *artifacts[0]):
            (blobs / sha256(data)[7:]).write_bytes(data)
        named = {"org.opencontainers.image.ref.name": "example.org/app:1"}
        entries = [described(image.manifest, OCI_MANIFEST, annotations=named)]
        entries += [described(one, OCI_MANIFEST) for one, _ in artifacts]
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
        run("tar", "-C", folder, "-cf", folder.parent / "archive.tar", ".")
    async with opened(tmp_path) as provisioner:
        (loaded,) = await provisioner.load(tmp_path / "0/archive.tar")
        (attached,) = provisioner.store.attachments.of(Digest.parse(loaded.digest))
        assert str(attached.descriptor.digest) == sha256(made)
        assert provisioner.store.blobs.has(Digest.of(content))
        with pytest.raises(MesocosmError, match="artifact"):
            await provisioner.load(tmp_path / "1/archive.tar")


# --- lists in registries ---


async def test_what_is_removed_is_listed_no_more(registry: Registry, client: RegistryClient) -> None:
    """The registry keeps no lists itself, and takes none that names what is not there."""
    pushed, image = Pushed(client, "unlist/a"), IMAGES["amd64"]
    await pushed.image(image, "1")
    made = [artifact(f"signature {number}".encode(), image.manifest) for number in range(4)]
    for manifest, content in made[:3]:
        await pushed.manifest(manifest, content, b"{}")
    digests = [sha256(manifest) for manifest, _ in made]
    assert await listed(client, "unlist/a", image.digest) == set(digests[:3])
    await client.delete("unlist/a", Digest.parse(digests[0]))
    assert await listed(client, "unlist/a", image.digest) == set(digests[1:3])
    connection = http.client.HTTPConnection(registry.host)
    connection.request("DELETE", f"/v2/unlist/a/manifests/{digests[1]}")
    assert connection.getresponse().status == 202
    connection.close()
    await pushed.manifest(made[3][0], made[3][1])
    assert await listed(client, "unlist/a", image.digest) == set(digests[2:])
    for digest in digests[2:]:
        await client.delete("unlist/a", Digest.parse(digest))
    assert await listed(client, "unlist/a", image.digest) == set()
    with pytest.raises(NotFound):
        await client.delete("unlist/a", Digest.parse(digests[0]))


# --- what a registry may not do ---


async def attached_by(registry: MaliciousRegistry, entries: list[dict[str, object]], folder: Path) -> None:
    image = IMAGES["amd64"]
    registry.add(image, "a/b", "1")
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    registry.serve_manifest("a/b", image.digest.replace(":", "-"), index, OCI_INDEX)
    async with opened(folder) as provisioner:
        await provisioner.pull(f"{registry.host}/a/b:1", referrers=True)
        assert await provisioner.inspect(image.digest)


async def test_g01_what_refers_to_something_else_is_refused(tmp_path: Path) -> None:
    made, content = artifact(b"of another", IMAGES["arm64"].manifest)
    async with MaliciousRegistry() as registry:
        registry.serve_manifest("a/b", sha256(made), made, OCI_MANIFEST)
        registry.blobs[sha256(content)] = content
        with pytest.raises(Corrupt, match="does not refer to"):
            await attached_by(registry, [described(made, OCI_MANIFEST)], tmp_path)


async def test_g06_what_is_attached_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, by size, by depth; a manifest that is listed and not there is passed over."""
    image = IMAGES["amd64"]
    async with MaliciousRegistry() as registry:
        gone = {"mediaType": OCI_MANIFEST, "digest": sha256(b"gone"), "size": 4}
        (tmp_path / "gone").mkdir()
        await attached_by(registry, [gone], tmp_path / "gone")
        made = [artifact(f"{number}".encode(), image.manifest) for number in range(4)]
        for manifest, content in made:
            registry.serve_manifest("a/b", sha256(manifest), manifest, OCI_MANIFEST)
            registry.blobs |= {sha256(content): content, sha256(b"{}"): b"{}"}
        entries = [described(manifest, OCI_MANIFEST) for manifest, _ in made]
        for name, value in (("COUNT", 3), ("SIZE", 1000), ("DEPTH", 1)):
            (folder := tmp_path / name).mkdir()
            with monkeypatch.context() as patch, pytest.raises(Exhausted):
                patch.setattr(attaching, name, value)
                await attached_by(registry, entries, folder)
        (tmp_path / "whole").mkdir()
        await attached_by(registry, entries, tmp_path / "whole")


async def test_g06_indexes_in_indexes_are_bounded(tmp_path: Path) -> None:
    """Each refers to the image through one more index; as deep as allowed they come along."""
    image = IMAGES["amd64"]
    for deep, folder in ((attaching.DEPTH, tmp_path / "deep"), (900, tmp_path / "deeper")):
        folder.mkdir()
        async with MaliciousRegistry() as registry:
            inner, kind = artifact(b"x", None)[0], OCI_MANIFEST
            registry.blobs |= {sha256(b"x"): b"x", sha256(b"{}"): b"{}"}
            for level in range(deep):
                registry.serve_manifest("a/b", sha256(inner), inner, kind)
                document: dict[str, object] = {"schemaVersion": 2, "mediaType": OCI_INDEX}
                document["manifests"] = [described(inner, kind)]
                if level == deep - 1:
                    document["subject"] = described(image.manifest, OCI_MANIFEST)
                inner, kind = json.dumps(document).encode(), OCI_INDEX
            registry.serve_manifest("a/b", sha256(inner), inner, kind)
            if deep > attaching.DEPTH:
                with pytest.raises(Exhausted, match="deep in each other"):
                    await attached_by(registry, [described(inner, kind)], folder)
            else:
                await attached_by(registry, [described(inner, kind)], folder)


async def test_g06_what_is_listed_and_not_there_is_bounded_too(tmp_path: Path) -> None:
    gone = [
        {"mediaType": OCI_MANIFEST, "digest": sha256(f"{number}".encode()), "size": 0}
        for number in range(attaching.COUNT + 1)
    ]
    async with MaliciousRegistry() as registry:
        with pytest.raises(Exhausted):
            await attached_by(registry, gone, tmp_path)
        assert len(registry.paths("/manifests/sha256:")) <= attaching.COUNT + 10
