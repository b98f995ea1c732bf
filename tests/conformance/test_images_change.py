"""One image beside another: compared, converted, imported, its blobs brought back."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import shutil
from pathlib import Path

import pytest

from fixtures.command import run
from fixtures.images import Layout
from mesocosm.errors import Corrupt, InvalidConfig, MesocosmError, NotFound
from mesocosm.images.comparison import compare, differences
from mesocosm.images.contents import Contents, reading
from mesocosm.images.layers.store import Form
from mesocosm.images.progress import Phase, Progress
from mesocosm.images.spool import settled, spooling
from provisions import image_of, opened
from registry_fixtures import OCI_LAYER, SmallImage, sha256, write_layout
from tarballs import archive, directory, file, symlink

BACKENDS = {"erofs": Form.EROFS, "overlay": Form.TREE}

BASE = [
    [directory(b"etc"), file(b"etc/same", b"s" * 5000), file(b"etc/content", b"1"), symlink(b"link", b"a")],
    [directory(b"opaque"), file(b"opaque/below", b"b"), file(b"gone", b"g")],
    [directory(b"was"), file(b"was/x")],
]
OLD = image_of(BASE)
NEW = image_of(
    [
        *BASE,
        [file(b"etc/content", b"2"), file(b".wh.gone", b""), file(b"opaque/.wh..wh..opq", b"")],
        [file(b"opaque/above", b"a"), file(b"was", b"a file now"), symlink(b"link", b"b")],
    ]
)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_comparison_sees_what_a_mount_shows(backend: str, tmp_path: Path) -> None:
    """Whiteouts, opaque directories and files in place of directories, from the indexes alone."""
    names = [f"oci:{write_layout(image, tmp_path / str(number))}" for number, image in enumerate((OLD, NEW))]
    async with opened(tmp_path) as provisioner:
        for name in names:
            await provisioner.pull(name, backend=backend)
        old, new = [await provisioner._here(name, None) for name in names]
        changes = differences(provisioner.store, old, new, BACKENDS[backend])
        assert [(one.path, one.kind, one.what) for one in changes] == [
            ("/etc/content", "changed", ("content",)),
            ("/gone", "removed", ()),
            ("/link", "changed", ("target",)),
            ("/opaque/above", "added", ()),
            ("/opaque/below", "removed", ()),
            ("/was", "changed", ("type",)),
            ("/was/x", "removed", ()),
        ]
        assert differences(provisioner.store, old, old, BACKENDS[backend]) == []


@pytest.mark.parametrize("backend", BACKENDS)
async def test_what_is_listed_is_what_umoci_unpacks(
    backend: str, debian_image_oci: Layout, tmp_path: Path
) -> None:
    """A real image of several layers, with every kind of file: the same names, kinds and sizes."""
    run("umoci", "unpack", "--image", debian_image_oci.umoci, tmp_path / "bundle")
    rootfs = tmp_path / "bundle/rootfs"
    async with opened(tmp_path) as provisioner:
        name = f"oci:{debian_image_oci.path}:{debian_image_oci.tag}"
        await provisioner.pull(name, backend=backend)
        image = await provisioner._here(name, None)
        with reading(provisioner.store, image, BACKENDS[backend]) as contents:
            listed = {path: file.node for path, file in contents.files()}
            assert list(compare(contents, contents)) == []
    found = {}
    for folder, folders, files in os.walk(os.fsencode(rootfs)):
        for entry in (*folders, *files):
            found[os.path.relpath(os.path.join(folder, entry), os.fsencode(rootfs))] = os.lstat(
                os.path.join(folder, entry)
            )
    assert listed.keys() == found.keys()
    wrong = [path for path, node in listed.items() if node.mode != found[path].st_mode]
    wrong += [path for path, node in listed.items() if node.uid != found[path].st_uid]
    wrong += [
        path
        for path, node in listed.items()
        if os.path.isfile(rootfs / os.fsdecode(path))
        and not os.path.islink(rootfs / os.fsdecode(path))
        and node.size != found[path].st_size
    ]
    assert wrong == []
    shutil.rmtree(tmp_path / "bundle")


async def test_i14_a_blob_that_is_another_layer_is_not_converted(tmp_path: Path) -> None:
    """I-14: what is compressed anew is checked against its diff ID; nothing is published."""
    path = f"oci:{write_layout(OLD, tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(path)
        good = await provisioner.convert(path, "example.org/good:1", "zstd")
        assert [layer.diff_id for layer in good.layers] == [
            sha256(gzip.decompress(blob)) for blob in OLD.layers
        ]
        blob = provisioner.store.blobs.path((await provisioner._here(path, None)).documents[0]).parent
        damaged = blob / sha256(OLD.layers[0]).partition(":")[2]
        damaged.chmod(0o600)
        damaged.write_bytes(OLD.layers[0][:-1] + b"x")
        kept = sorted(os.listdir(blob))
        with pytest.raises(Corrupt):
            await provisioner.convert(path, "example.org/bad:1", "none")
        assert sorted(os.listdir(blob)) == kept
        assert os.listdir(provisioner.store.root / "ingest") == []
        with pytest.raises(NotFound):
            await provisioner.inspect("example.org/bad:1")


async def test_blobs_that_were_not_needed_are_fetched_when_they_are(tmp_path: Path) -> None:
    """Two images of one layer, compressed otherwise: the second brings no blob until it is to be saved."""
    raw = gzip.decompress(OLD.layers[0])
    blobs = (gzip.compress(raw, 1, mtime=0), *OLD.layers[1:])
    manifest = OLD.manifest
    for before, after in zip(OLD.layers, blobs, strict=True):
        manifest = manifest.replace(sha256(before).encode(), sha256(after).encode())
        manifest = manifest.replace(b'"size": %d}' % len(before), b'"size": %d}' % len(after))
    other = SmallImage(manifest, OLD.config, blobs)
    assert OCI_LAYER.encode() in manifest
    first, second = (f"oci:{write_layout(one, tmp_path / str(n))}" for n, one in enumerate((OLD, other)))
    told: list[Progress] = []
    async with opened(tmp_path, progress=told.append) as provisioner:
        await provisioner.pull(first)
        image = await provisioner.pull(second)
        absent = provisioner.store.blobs.root / "blobs/sha256" / sha256(blobs[0]).partition(":")[2]
        assert not absent.exists()
        with (tmp_path / "saved.tar").open("wb") as target:
            await provisioner.save([second], target.fileno())
        assert absent.exists()
        assert image.digest == other.digest
        absent.unlink()
        shutil.rmtree(tmp_path / "1")
        with (tmp_path / "again.tar").open("wb") as target, pytest.raises(NotFound, match="no source has it"):
            await provisioner.save([second], target.fileno())
    assert Phase.DOWNLOAD in {one.phase for one in told}


async def test_a_pipe_that_nobody_writes_to_can_be_left(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    try:
        async with opened(tmp_path) as provisioner:
            loading = asyncio.ensure_future(provisioner.load(ours))
            await asyncio.to_thread(os.write, theirs, bytes(128 << 10))  # twice what a pipe holds
            ingest = provisioner.store.root / "ingest"
            assert len(list(ingest.glob("spool-*"))) == 1
            loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loading
            assert loading.cancelled()
            assert list(ingest.iterdir()) == []
    finally:
        os.close(ours)
        os.close(theirs)


async def test_what_a_crash_leaves_of_a_spool_is_swept(tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        left = provisioner.store.root / "ingest" / "spool-0123456789abcdef"
        left.write_bytes(b"left")
        with spooling(provisioner.store.blobs) as spool:
            spool.write(b"held")
            provisioner.store.sweep()
            assert spool.path.read_bytes() == b"held"
        assert not left.exists()


async def test_i09_a_bomb_through_a_pipe_is_refused(tmp_path: Path) -> None:
    """I-09: what a pipe expands to is bounded in ratio; its honest twin passes."""
    async with opened(tmp_path) as provisioner:
        bomb = tmp_path / "bomb.gz"
        with gzip.open(bomb, "wb", 9) as target:
            for _ in range(100):
                target.write(bytes(1 << 20))
        with pytest.raises(MesocosmError, match="expands to more than"):
            await provisioner.load(bomb)
        assert os.listdir(provisioner.store.root / "ingest") == []
        fine = tmp_path / "fine.gz"
        fine.write_bytes(gzip.compress(os.urandom(100_000)))
        with settled(provisioner.store.blobs, fine, plain=True) as path:
            assert path.stat().st_size == 100_000


async def test_names_for_images_made_here(tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(archive(file(b"a", b"1")))
    async with opened(tmp_path) as provisioner:
        nameless = await provisioner.import_tarball(path)
        assert nameless.references == ()
        for name in ("oci:/x", "a@sha256:" + "0" * 64, "A/B"):
            with pytest.raises(InvalidConfig):
                await provisioner.import_tarball(path, name)
        again = await provisioner.import_tarball(path, "example.org/x", changes=["USER 7"])
        assert again.references == ("docker://example.org/x:latest",)
        assert again.runtime.user == "7"
        with pytest.raises(Corrupt):
            await provisioner.import_tarball(path, changes=["WORKDIR relative/../x", "STOPSIGNAL 9999"])


def test_empty_images_are_compared() -> None:
    assert list(compare(Contents({}, ()), Contents({}, ()))) == []
