"""The provisioner's promises: policies, leases, names, collection, on a real kernel."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import msgspec
import pytest

from malicious_registry import MaliciousRegistry, headers, stall, status
from mesocosm.errors import Busy, Corrupt, InvalidConfig, NotFound, Unavailable, Unsupported, WrongState
from mesocosm.images.collect import Limits
from mesocosm.images.digest import Digest
from mesocosm.images.layers.store import Form
from mesocosm.images.platform import host_platform
from mesocosm.images.progress import Phase, Progress
from mesocosm.images.provisioner import Provisioner
from mesocosm.model import ContainerID
from mesocosm.plan.operations import BindRoot, HostRoot, OverlayRoot
from provisions import image_of, new_id, opened, paths_of, shown
from registry_fixtures import SmallImage, write_layout
from tarballs import file

ONE = image_of([[file(b"base", b"b" * 100_000)], [file(b"one", b"1")]])
TWO = image_of([[file(b"base", b"b" * 100_000)], [file(b"two", b"2")]])


def blob_requests(registry: MaliciousRegistry) -> list[str]:
    """Digests of the layer blobs asked for, in order."""
    return [seen.path.rpartition("/")[2] for seen in registry.seen if "/blobs/" in seen.path]


async def names_in(provisioner: Provisioner, reference: str, where: Path) -> set[str]:
    """The names in the root of a new container's image."""
    container = new_id()
    provision = await provisioner.provision(container, reference, scratch=where / f"s-{container}")
    with shown(provision.root, where / f"r-{container}") as root:
        found = {path.name for path in root.iterdir()}
    await provisioner.release(container)
    return found


# --- policies -----------------------------------------------------------------------------------------------


async def test_missing_asks_once_and_never_asks_not_at_all(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        registry.add(ONE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        with pytest.raises(NotFound, match="mesocosm pull"):
            await provisioner.provision(new_id(), name, pull="never", scratch=tmp_path / "s")
        assert registry.seen == []
        assert await names_in(provisioner, name, tmp_path) == {"base", "one"}
        asked = len(registry.seen)
        assert await names_in(provisioner, name, tmp_path) == {"base", "one"}
        assert len(registry.seen) == asked


async def test_always_asks_conditionally_and_follows_the_tag(tmp_path: Path) -> None:
    """DKR-3, GAP-25: a moved tag is seen; an unmoved one costs one request without a body."""
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        registry.add(ONE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        first = await provisioner.pull(name)
        before = len(registry.seen)
        again = await provisioner.pull(name)
        assert again.digest == first.digest and len(registry.seen) - before <= 2
        assert (again.checked_at or 0) >= (first.checked_at or 0)
        registry.add(TWO, "a/b", "latest")
        moved = await provisioner.pull(name)
        assert moved.digest == TWO.digest != first.digest
        assert blob_requests(registry).count(json.loads(ONE.manifest)["layers"][0]["digest"]) == 1
        old = await provisioner.inspect(first.digest)
        assert old.references == () and moved.references == (f"docker://{registry.host}/a/b:latest",)


async def test_a_registry_without_ETags_is_asked_for_the_manifest_alone(tmp_path: Path) -> None:
    """The answer's age is that of the last answer, whatever it was compared by."""
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        registry.add(ONE, "a/b", "latest")
        registry.always("/manifests/", headers(ETag=""))
        name = f"{registry.host}/a/b"
        first = await provisioner.pull(name)
        before = len(registry.seen)
        again = await provisioner.pull(name)
        assert again.digest == first.digest and len(registry.seen) == before + 1
        assert first.checked_at is not None and again.checked_at is not None
        assert again.checked_at > first.checked_at
        registry.add(TWO, "a/b", "latest")
        assert (await provisioner.pull(name)).digest == TWO.digest


async def test_newer_goes_on_with_what_is_here(tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        async with MaliciousRegistry() as registry:
            registry.add(ONE, "a/b", "latest")
            name = f"{registry.host}/a/b"
            with pytest.raises(InvalidConfig, match="sometimes"):
                await provisioner.provision(new_id(), name, pull="sometimes", scratch=tmp_path / "s")
            await provisioner.pull(name)
        provision = await provisioner.provision(new_id(), name, pull="newer", scratch=tmp_path / "s")
        assert provision.identity.digest == ONE.digest
        with pytest.raises(Unavailable):
            await provisioner.provision(new_id(), name, pull="always", scratch=tmp_path / "s")


async def test_a_local_source_is_looked_at_each_time(tmp_path: Path) -> None:
    """A layout that was built anew under its old path is not taken from memory."""
    layout = write_layout(ONE, tmp_path / "layout")
    async with opened(tmp_path) as provisioner:
        assert await names_in(provisioner, f"oci:{layout}", tmp_path) == {"base", "one"}
        for path in sorted(layout.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        layout.rmdir()
        write_layout(TWO, layout)
        assert await names_in(provisioner, f"oci:{layout}", tmp_path) == {"base", "two"}


async def test_preview_changes_nothing(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        registry.add(ONE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        with pytest.raises(NotFound, match="mesocosm pull"):
            await provisioner.preview(name, scratch=tmp_path / "s")
        await provisioner.pull(name)
        before = sorted(path for path in tmp_path.rglob("*"))
        preview = await provisioner.preview(name, scratch=tmp_path / "s")
        assert sorted(path for path in tmp_path.rglob("*")) == before
        real = await provisioner.provision(new_id(), name, scratch=tmp_path / "s")
        assert (preview.root, preview.runtime) == (real.root, real.runtime)
        assert preview.identity == real.identity


async def test_host_and_directories_need_no_pull(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    async with opened(tmp_path) as provisioner:
        host = await provisioner.provision(new_id(), "host", scratch=tmp_path / "s")
        assert isinstance(host.root, HostRoot)
        gone = (*host.root.hidden, *host.root.emptied)
        for own in (tmp_path / "state", tmp_path / "run", Path("/etc/shadow")):
            assert any(own == Path(path) or Path(path) in own.parents for path in gone)
        assert host.identity.digest is None and host.identity.reference == "host"
        shown_tree = await provisioner.provision(new_id(), f"dir:{tree}", scratch=tmp_path / "t")
        assert isinstance(shown_tree.root, OverlayRoot) and shown_tree.root.layers == (str(tree),)
        with shown(shown_tree.root, tmp_path / "root") as root:
            (root / "new").write_text("x")
        assert not (tree / "new").exists()
        with pytest.raises(NotFound, match="no such directory"):
            await provisioner.provision(new_id(), f"dir:{tmp_path / 'absent'}", scratch=tmp_path / "t")
        with pytest.raises(InvalidConfig, match="nothing to pull"):
            await provisioner.pull("host")


# --- one of everything --------------------------------------------------------------------------------------


async def test_q17_many_pulls_fetch_each_blob_once(tmp_path: Path) -> None:
    """Q-17: 32 pulls of two images with a shared layer, at once."""
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        registry.add(ONE, "a/one", "latest")
        registry.add(TWO, "a/two", "latest")
        names = [f"{registry.host}/a/{name}" for name in ("one", "two")] * 16
        images = await asyncio.gather(*(provisioner.pull(name) for name in names))
        assert {image.digest for image in images} == {ONE.digest, TWO.digest}
        asked = blob_requests(registry)
        assert len(asked) == len(set(asked)) == 5  # three layers, two configurations
        assert len(list(provisioner.store.layers.list())) == 3


async def test_g12_a_flipping_tag_gives_whole_images(tmp_path: Path) -> None:
    """G-12: whatever the tag says meanwhile, each result is one of the two images, whole."""
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        name = f"{registry.host}/a/b"
        found = set()
        for turn in range(8):
            registry.add((ONE, TWO)[turn % 2], "a/b", "latest")
            images = await asyncio.gather(*(provisioner.pull(name) for _ in range(4)))
            found |= {(image.digest, image.image_id, len(image.layers)) for image in images}
        assert {digest for digest, _, _ in found} == {ONE.digest, TWO.digest} and len(found) == 2


async def test_two_processes_worth_of_provisioners_share_a_store(tmp_path: Path) -> None:
    """Two provisioners on one store know nothing of each other but the files."""
    async with MaliciousRegistry() as registry, opened(tmp_path) as left, opened(tmp_path) as right:
        registry.add(ONE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        images = await asyncio.gather(left.pull(name), right.pull(name))
        assert images[0].digest == images[1].digest
        asked = [digest for digest in blob_requests(registry) if digest in str(ONE.manifest)]
        assert len([digest for digest in asked if digest in _layers(ONE)]) == 2


def _layers(image: SmallImage) -> list[str]:
    return [layer["digest"] for layer in json.loads(image.manifest)["layers"]]


async def test_a_known_image_does_no_work_per_layer(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        registry.add(ONE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        await provisioner.provision(new_id(), name, scratch=tmp_path / "one")
        mounted = Path("/proc/self/mountinfo").read_text()
        reports: list[Progress] = []
        provisioner._report = reports.append
        await provisioner.provision(new_id(), name, scratch=tmp_path / "two")
        assert Path("/proc/self/mountinfo").read_text() == mounted and reports == []


async def test_progress_tells_every_phase(tmp_path: Path) -> None:
    reports: list[Progress] = []
    async with MaliciousRegistry() as registry, opened(tmp_path, progress=reports.append) as provisioner:
        registry.add(ONE, "a/b", "latest")
        await provisioner.pull(f"{registry.host}/a/b")
        finished = {(one.phase, one.subject) for one in reports if one.finished}
        assert {phase for phase, _ in finished} == {Phase.RESOLVE, Phase.DOWNLOAD, Phase.UNPACK}
        assert {digest for phase, digest in finished if phase is Phase.DOWNLOAD} == set(_layers(ONE))
        reports.clear()
        registry.add(TWO, "a/b", "latest")
        await provisioner.pull(f"{registry.host}/a/b")
        already = {one.subject for one in reports if one.phase is Phase.DOWNLOAD and one.already}
        assert already == {_layers(ONE)[0]}


async def test_a_cancelled_pull_leaves_what_can_be_resumed(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a layer: no lease, no layer, no mount; the partial blob is resumed."""
    big = image_of([[file(b"data", os.urandom(3_000_000))]])
    arrived = asyncio.Event()

    def watch(report: Progress) -> None:
        if report.phase is Phase.DOWNLOAD and report.done >= 1_000_000:
            arrived.set()

    async with MaliciousRegistry() as registry, opened(tmp_path, progress=watch) as provisioner:
        registry.add(big, "a/b", "latest")
        registry.on(f"/blobs/{_layers(big)[0]}", stall(1_500_000))
        name = f"{registry.host}/a/b"
        pull = asyncio.ensure_future(provisioner.pull(name))
        await arrived.wait()
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        assert provisioner.store.leases.owners() == [] and list(provisioner.store.layers.list()) == []
        left = [path for path in (tmp_path / "state/images/ingest").iterdir() if path.stat().st_size]
        assert [path.name for path in left] == [_layers(big)[0].replace(":", "-")]
        assert 0 < left[0].stat().st_size < 3_000_000
        assert (await provisioner.pull(name)).complete
        resumed = [seen.headers.get("range") for seen in registry.seen if _layers(big)[0] in seen.path]
        assert resumed[0] is None and resumed[-1] is not None
        assert not list((tmp_path / "state/images/ingest").iterdir())


# --- leases -------------------------------------------------------------------------------------------------


async def test_layers_stay_mounted_as_long_as_a_container_needs_them(tmp_path: Path) -> None:
    container = new_id()
    path = f"oci:{write_layout(ONE, tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        await provisioner.provision(container, path, scratch=tmp_path / "s")
        assert len(provisioner.mounts.mounted()) == 2
        async with opened(tmp_path) as other:
            await other.recover({container})
            assert len(other.mounts.mounted()) == 2
            await other.provision(container, path, scratch=tmp_path / "s")
        await provisioner.release(container)
        await provisioner.release(container)
    assert list((tmp_path / "run/layers").iterdir()) == []


async def test_a_lease_survives_the_one_who_took_it(tmp_path: Path) -> None:
    """A detached container's layers stay mounted after the command is gone, until it is released."""
    container = new_id()
    path = f"oci:{write_layout(ONE, tmp_path / 'layout')}"
    async with Provisioner.open(paths_of(tmp_path)) as provisioner:
        await provisioner.provision(container, path, scratch=tmp_path / "s")
    async with opened(tmp_path) as provisioner:
        assert len(provisioner.mounts.mounted()) == 2
        with pytest.raises(Busy, match=str(container)):
            await provisioner.remove(path)
        assert [image.in_use for image in await provisioner.images()] == [(str(container),)]
        await provisioner.recover(lambda: set())
        assert provisioner.mounts.mounted() == []
        assert (await provisioner.remove(path)).deleted == (ONE.digest,)


async def test_prv6_leases_add_up(tmp_path: Path) -> None:
    """PRV-6: a container with two images keeps both from being collected."""
    container = new_id()
    one, two = (f"oci:{write_layout(image, tmp_path / name)}" for image, name in ((ONE, "1"), (TWO, "2")))
    async with opened(tmp_path) as provisioner:
        for path in (one, two):
            await provisioner.provision(container, path, scratch=tmp_path / "s")
        for path in (one, two):
            await provisioner.remove(path, force=True)
        await provisioner.prune()
        assert len(list(provisioner.store.layers.list())) == 3
        await provisioner.release(container)
        plan = await provisioner.prune(dry_run=True)
        assert set(plan.images) == {ONE.digest, TWO.digest} and len(plan.layers) == 3
        assert len(list(provisioner.store.layers.list())) == 3
        await provisioner.prune()
        assert list(provisioner.store.layers.list()) == [] and list(provisioner.store.blobs.list()) == []


async def test_collection_goes_by_last_use_and_spares_pins(tmp_path: Path) -> None:
    images = [image_of([[file(b"n", os.urandom(50_000))]]) for _ in range(4)]
    async with opened(tmp_path) as provisioner:
        for number, image in enumerate(images):
            await provisioner.pull(f"oci:{write_layout(image, tmp_path / str(number))}")
            provisioner.store.catalogue.used(image.digest, 1000.0 + number)
        await provisioner.pin(images[0].digest)
        provisioner.store.catalogue.used(images[1].digest, 9000.0)
        usage = await provisioner.usage()
        budget = (usage.layers + usage.blobs) * 7 // 10
        plan = await provisioner.prune(Limits(budget=budget))
        assert set(plan.images) == {images[2].digest, images[3].digest}
        with pytest.raises(WrongState, match="pinned"):
            await provisioner.remove(images[0].digest)
        await provisioner.unpin(images[0].digest)
        assert (await provisioner.remove(images[0].digest)).deleted == (images[0].digest,)
        assert [image.digest for image in await provisioner.images()] == [images[1].digest]


# --- names --------------------------------------------------------------------------------------------------


async def test_names_tags_and_digests(tmp_path: Path) -> None:
    path = f"oci:{write_layout(ONE, tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        image = await provisioner.pull(path)
        await provisioner.tag(path, "example.org/app:1")
        tagged = await provisioner.tag("example.org/app:1", "app")
        assert tagged.references == (
            "docker://docker.io/library/app:latest",
            "docker://example.org/app:1",
            path,
        )
        short = image.digest.removeprefix("sha256:")[:12]
        for text in (image.digest, short, image.image_id, "app", "example.org/app:1"):
            assert (await provisioner.inspect(text)).digest == image.digest
            provision = await provisioner.provision(new_id(), text, pull="missing", scratch=tmp_path / "s")
            assert provision.identity.digest == image.digest
        with pytest.raises(Busy, match="several names"):
            await provisioner.remove(short)
        assert (await provisioner.remove("app")).untagged == ("docker://docker.io/library/app:latest",)
        with pytest.raises(NotFound, match="mesocosm pull app"):
            await provisioner.inspect("app")
        with pytest.raises(InvalidConfig):
            await provisioner.tag(path, "app@" + image.digest)
        steps = await provisioner.history(image.digest)
        assert [step.created_by for step in steps] == ["step 1", "step 0"]
        assert steps[1].layer == image.layers[0].diff_id and steps[1].size > 100_000
        assert (await provisioner.documents(short))[0] == ONE.manifest


async def test_an_image_without_architecture_counts_as_this_hosts(tmp_path: Path) -> None:
    image = image_of([[file(b"base")]], architecture="")
    async with opened(tmp_path) as provisioner:
        path = f"oci:{write_layout(image, tmp_path / 'layout')}"
        await provisioner.pull(path)
        await provisioner.tag(path, "example.org/any:1")
        host = str(host_platform())
        assert (await provisioner.describe("example.org/any:1")).platform == host
        assert await provisioner.platforms("example.org/any:1") == [host]
        saved = tmp_path / "saved.tar"
        with saved.open("wb") as target:
            await provisioner.save(["example.org/any:1"], target.fileno())
        await provisioner.load(saved)
        assert (await provisioner.inspect(image.digest)).references == ("docker://example.org/any:1", path)
        record = provisioner.store.catalogue.require(image.digest)
        provisioner.store.catalogue.add(msgspec.structs.replace(record, platform="linux"))  # as once written
        assert (await provisioner.describe("example.org/any:1")).architecture == host_platform().architecture
        provisioner.store.layers.condemn(record.diff_ids[0], Form.EROFS)
        await provisioner.verify(image.digest, repair=True)
        assert (await provisioner.verify(image.digest)).sound


@pytest.mark.parametrize("named", ["tag", "digest"])
async def test_what_is_missing_comes_from_where_the_image_was_pulled(named: str, tmp_path: Path) -> None:
    """Whatever it was named by: a name that was given here is no address."""
    async with MaliciousRegistry() as registry, MaliciousRegistry() as other, opened(tmp_path) as provisioner:
        registry.add(ONE, "a/b", "latest")
        await provisioner.pull(f"{registry.host}/a/b")
        await provisioner.tag(f"{registry.host}/a/b", f"{other.host}/mine:1")
        name = f"{other.host}/mine:1" if named == "tag" else ONE.digest
        store, scratch = provisioner.store, tmp_path / "scratch"
        image = store.catalogue.require(ONE.digest)
        store.layers.condemn(image.diff_ids[0], Form.EROFS)
        store.blobs.delete(Digest.parse(image.layers[0].digest))
        with pytest.raises(NotFound, match="are not on this host"):
            await provisioner.provision(new_id(), name, pull="never", scratch=scratch)
        provision = await provisioner.provision(new_id(), name, scratch=scratch)
        assert provision.identity.digest == ONE.digest and store.complete(image, Form.EROFS)
        assert blob_requests(registry).count(image.layers[0].digest) == 2 and not other.seen


async def test_an_image_is_not_removed_by_a_digest_in_another_repository(tmp_path: Path) -> None:
    """It is found by its digest, whatever repository stands before that: what would go is another's name."""
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        registry.add(ONE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        await provisioner.pull(name)
        with pytest.raises(NotFound, match="no image here is called"):
            await provisioner.remove(f"{registry.host}/c/d@{ONE.digest}")
        assert (await provisioner.inspect(name)).digest == ONE.digest
        removed = await provisioner.remove(f"{name}@{ONE.digest}")
        assert removed.untagged == (f"docker://{name}:latest",) and removed.deleted == (ONE.digest,)


async def test_removing_one_image_leaves_what_another_shares(tmp_path: Path) -> None:
    one, two = (f"oci:{write_layout(image, tmp_path / name)}" for image, name in ((ONE, "1"), (TWO, "2")))
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(one)
        await provisioner.pull(two)
        removal = await provisioner.remove(one)
        assert removal.deleted == (ONE.digest,) and 0 < removal.freed < 100_000
        assert await names_in(provisioner, two, tmp_path) == {"base", "two"}


# --- damage -------------------------------------------------------------------------------------------------


async def test_a_flipped_bit_is_found_and_repaired(tmp_path: Path) -> None:
    path = f"oci:{write_layout(ONE, tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        image = await provisioner.pull(path)
        assert (await provisioner.verify(path)).sound
        layer, form = sorted(provisioner.store.layers.list())[0]
        content = provisioner.store.layers.content(layer, form)
        content.chmod(0o600)
        data = bytearray(content.read_bytes())
        data[len(data) // 2] ^= 1
        content.write_bytes(data)
        verdict = await provisioner.verify(path, repair=True)
        assert verdict.damaged == (str(layer),)
        assert (await provisioner.verify(image.digest)).sound


async def test_a_flipped_bit_in_a_blob_is_found_and_repaired(tmp_path: Path) -> None:
    path = f"oci:{write_layout(ONE, tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        image = await provisioner.pull(path)
        blob = tmp_path / "state/images/blobs/sha256" / image.layers[0].digest.removeprefix("sha256:")
        blob.chmod(0o600)
        data = bytearray(blob.read_bytes())
        data[20] ^= 1
        blob.write_bytes(data)
        verdict = await provisioner.verify(path, repair=True)
        assert verdict.damaged == (image.layers[0].digest,)
        assert (await provisioner.inspect(path)).complete


async def test_damaged_records_cost_one_image(tmp_path: Path) -> None:
    """A corrupt catalogue: each file stands for itself; the next pull fetches nothing again."""
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        registry.add(ONE, "a/one", "latest")
        registry.add(TWO, "a/two", "latest")
        for name in ("one", "two"):
            await provisioner.pull(f"{registry.host}/a/{name}")
        record = tmp_path / f"state/images/images/{ONE.digest.removeprefix('sha256:')}.json"
        for garbage in (b"", b"{", b"\xff" * 100, b"[]", b"null"):
            record.write_bytes(garbage)
            assert [image.digest for image in await provisioner.images()] == [TWO.digest]
            asked = len(blob_requests(registry))
            await provisioner.pull(f"{registry.host}/a/one")
            assert len(blob_requests(registry)) == asked
            assert len(await provisioner.images()) == 2


async def test_a_store_of_a_newer_layout_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    (tmp_path / "state/images/version").write_text("2\n")
    with pytest.raises(Unsupported, match="another version"):
        async with opened(tmp_path):
            pass


async def test_a_moved_store_goes_on(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    async with MaliciousRegistry() as registry:
        registry.add(ONE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        async with opened(before) as provisioner:
            await provisioner.pull(name)
        before.rename(after)
        asked = len(registry.seen)
        async with opened(after) as provisioner:
            assert await names_in(provisioner, name, after) == {"base", "one"}
        assert len(registry.seen) == asked


@pytest.mark.parametrize("code", [401, 403, 404, 500, 503])
async def test_a_refusing_registry_leaves_nothing(code: int, tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        registry.add(ONE, "a/b", "latest")
        registry.always("/blobs/", status(code))
        with pytest.raises(Exception, match="registry|blob|denied|not") as caught:
            await provisioner.pull(f"{registry.host}/a/b")
        assert "\n" not in str(caught.value)
        assert await provisioner.images() == [] and list(provisioner.store.layers.list()) == []
        assert provisioner.store.leases.owners() == []


async def test_leases_that_cannot_be_read_stop_collection_only(tmp_path: Path) -> None:
    path = f"oci:{write_layout(ONE, tmp_path / 'layout')}"
    container = ContainerID.generate()
    async with opened(tmp_path) as provisioner:
        provision = await provisioner.provision(container, path, backend="copy", scratch=tmp_path / "s")
        assert isinstance(provision.root, BindRoot)
        (tmp_path / f"state/images/leases/container-{container}").write_text("garbage")
        with pytest.raises(Corrupt, match="lease"):
            await provisioner.prune()
        assert await names_in(provisioner, path, tmp_path) == {"base", "one"}
