"""Backends as the provisioner has them: chosen, given what was pulled, at their limits.

What each is held to by itself stands in test_backends_held.py, what layers can hold in layer_table.py.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures import kernel
from fixtures.command import run
from fixtures.images import Layout
from mesocosm.errors import Denied, Exhausted, InvalidConfig
from mesocosm.images.backends import OURS, backend_class
from mesocosm.images.backends.choice import BackendChoice
from mesocosm.images.conformance.adversity import without_mounting
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.mounts import LayerMounts
from mesocosm.plan.operations import OverlayRoot
from provisions import image_of, new_id, opened, paths_of, shown
from registry_fixtures import write_layout
from tarballs import FIFO, Member, directory, file, hardlink, symlink
from trees import Seen, snapshot

STACKING = ("erofs", "merged", "overlay", "copy")
"""``merged`` is ``erofs`` that takes two layers for a deep stack."""

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")

LAYERS = [
    [
        directory(b"d", 0o711),
        file(b"d/kept", b"k" * 10_000),
        file(b"d/replaced", b"old"),
        file(b"d/removed"),
        directory(b"d/sub"),
        file(b"d/sub/x"),
        directory(b"opaque"),
        file(b"opaque/hidden"),
        file(b"file-to-directory"),
        directory(b"directory-to-file"),
        file(b"directory-to-file/x"),
        symlink(b"link-to-directory", b"d"),
        file(b"set-uid", b"x", 0o4755),
        Member(b"capable", data=b"x", pax=((b"SCHILY.xattr.security.capability", CAPABILITY),)),
        Member(b"attribute", data=b"x", pax=((b"SCHILY.xattr.user.a", b"\x00\xff"),)),
        Member(b"owned", data=b"x", uid=1000, gid=100),
        Member(b"fifo", FIFO, mode=0o640),
        file(b"one", b"linked"),
        hardlink(b"two", b"one"),
        directory(b"sticky", 0o1777),
    ],
    [
        directory(b"d", 0o750),
        file(b"d/replaced", b"new"),
        file(b"d/.wh.removed", b""),
        file(b"d/.wh.sub", b""),
        directory(b"opaque"),
        file(b"opaque/.wh..wh..opq", b""),
        file(b"opaque/shown"),
        directory(b"file-to-directory"),
        file(b"file-to-directory/y"),
        file(b"directory-to-file", b"now a file"),
        directory(b"link-to-directory"),
        file(b"link-to-directory/own"),
    ],
    [
        file(b"d/sub", b"a file again"),
        hardlink(b"d/sub-2", b"d/sub"),
        directory(b"opaque"),
        file(b"opaque/third"),
    ],
]


@contextlib.contextmanager
def named(backend: str) -> Iterator[str]:
    """What a backend is called on the command line."""
    with pytest.MonkeyPatch.context() as patch:
        if backend == "merged":
            patch.setattr("mesocosm.images.image.DEEP", 1)
        yield "erofs" if backend == "merged" else backend


async def tree_of(folder: Path, reference: str, backend: str) -> dict[bytes, Seen]:
    """The tree that a container would see."""
    scratch = folder / f"scratch-{backend}"
    async with opened(folder) as provisioner:
        with named(backend) as name:
            provision = await provisioner.provision(new_id(), reference, backend=name, scratch=scratch)
        with shown(provision.root, folder / "root") as root:
            tree = snapshot(root)
    del tree[b"."]  # its look is the container's own directory's
    return tree


def unpacked_by_umoci(layout: Layout, folder: Path) -> dict[bytes, Seen]:
    """The tree that umoci makes."""
    run("umoci", "raw", "unpack", "--image", layout.umoci, folder / "umoci")
    tree = snapshot(folder / "umoci")
    del tree[b"."]
    return tree


@pytest.mark.slow
async def test_a_real_image_as_umoci_unpacks_it(debian_image_oci: Layout, tmp_path: Path) -> None:
    """Mode, owner, size, link count, nanosecond times, attributes, link targets, content of every file."""
    expected = unpacked_by_umoci(debian_image_oci, tmp_path)
    for backend in STACKING:
        tree = await tree_of(tmp_path, f"oci:{debian_image_oci.path}:{debian_image_oci.tag}", backend)
        assert set(tree) == set(expected)
        assert {name: (tree[name], seen) for name, seen in expected.items() if tree[name] != seen} == {}


@pytest.mark.parametrize("count", [65, 500])
async def test_deep_images_work(count: int, tmp_path: Path) -> None:
    """More than 64 layers; 500 is what overlayfs takes (I-15: option strings would be cut at a page)."""
    layers = [[file(b"n", b"%d" % number), file(b"own-%d" % number, b"x")] for number in range(count)]
    path = f"oci:{write_layout(image_of(layers), tmp_path / 'layout')}"
    tree = await tree_of(tmp_path, path, "erofs")
    assert len(tree) == count + 1
    store = tmp_path / "state/images"
    merges = list((store / "merged").iterdir())
    assert len(merges) == kernel.mounts_merges(), "one mount, not one for each layer"


async def test_more_layers_than_overlayfs_takes_are_refused_by_name(tmp_path: Path) -> None:
    path = f"oci:{write_layout(image_of([[]] * 501), tmp_path / 'layout')}"
    with pytest.raises(Exhausted, match=r"oci:.*/layout has 501 layers, more than the 500"):
        await tree_of(tmp_path, path, "erofs")


@pytest.mark.parametrize("backend", STACKING)
async def test_a_read_only_root_is_the_same_tree_and_has_nowhere_for_changes(
    backend: str, tmp_path: Path
) -> None:
    """Where directories are copied the copy is made read-only by a step of its own, after the mounts."""
    path = f"oci:{write_layout(image_of(LAYERS), tmp_path / 'layout')}"
    expected = await tree_of(tmp_path, path, backend)
    scratch = tmp_path / "read-only"
    async with opened(tmp_path) as provisioner:
        with named(backend) as name:
            preview = await provisioner.preview(path, backend=name, read_only=True, scratch=scratch)
            assert not scratch.exists()
            provision = await provisioner.provision(
                new_id(), path, backend=name, read_only=True, scratch=scratch
            )
        assert provision.root == preview.root
        with shown(provision.root, tmp_path / "root") as root:
            tree = snapshot(root)
            assert (tree[b"."].mode, tree[b"."].uid) == (0o755, 0)
            del tree[b"."]
            assert tree == expected
            if backend == "copy":
                return
            assert isinstance(provision.root, OverlayRoot)
            assert provision.root.upper is None and provision.root.work is None
            assert not scratch.exists()
            with pytest.raises(OSError, match="Read-only"):
                (root / "new").write_text("x")


@pytest.mark.parametrize("count", [498, 499])
async def test_as_many_layers_as_overlayfs_takes_are_read_only_too(count: int, tmp_path: Path) -> None:
    """Two places in the stack are needed for the root's own look and for mount points."""
    layers = [[file(b"own-%d" % number, b"x")] for number in range(count)]
    path = f"oci:{write_layout(image_of(layers), tmp_path / 'layout')}"
    scratch = tmp_path / "scratch"
    async with opened(tmp_path) as provisioner:
        provision = await provisioner.provision(
            new_id(), path, backend="overlay", read_only=True, scratch=scratch
        )
        assert isinstance(provision.root, OverlayRoot)
        assert (provision.root.upper is None) == (count == 498)
        with shown(provision.root, tmp_path / "root") as root:
            assert len(list(root.iterdir())) == count


async def test_an_image_without_layers_can_be_read_only(tmp_path: Path) -> None:
    path = f"oci:{write_layout(image_of([]), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        for backend in STACKING:
            with named(backend) as name:
                provision = await provisioner.provision(
                    new_id(), path, backend=name, read_only=True, scratch=tmp_path / backend
                )
            with shown(provision.root, tmp_path / "root") as root:
                assert not list(root.iterdir())


async def test_i15_any_character_in_the_store_path(tmp_path: Path) -> None:
    """I-15: ``:`` ``,`` and ``\\`` mean nothing in a layer's path."""
    odd = tmp_path / "a:b,c\\d e"
    odd.mkdir()
    layout = write_layout(image_of(LAYERS), tmp_path / "layout")
    trees = [await tree_of(odd, f"oci:{layout}", backend) for backend in STACKING]
    assert trees[1:] == trees[:1] * 3


async def test_an_image_without_layers(tmp_path: Path) -> None:
    image = image_of([])
    for backend in STACKING:
        assert await tree_of(tmp_path, f"oci:{write_layout(image, tmp_path / backend)}", backend) == {}


def test_unknown_backends_name_the_known_ones() -> None:
    with pytest.raises(InvalidConfig, match="bind, copy, erofs, overlay"):
        backend_class("aufs")
    assert set(OURS) == {"bind", "copy", "erofs", "overlay"}


async def test_the_choice_is_made_by_trying_and_remembered(tmp_path: Path) -> None:
    path = f"oci:{write_layout(image_of(LAYERS), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        provision = await provisioner.provision(new_id(), path, scratch=tmp_path / "s")
        assert isinstance(provision.root, OverlayRoot)
        assert provision.root.layers[-1].startswith(str(tmp_path / "run/layers"))
    assert json.loads((tmp_path / "run/backend.json").read_text())["name"] == "erofs"
    assert not list((tmp_path / "state/images/ingest").iterdir())


@pytest.mark.parametrize("lacking", [errno.ENODEV, None])
def test_who_may_not_mount_chooses_for_nobody(
    lacking: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where the kernel has no EROFS: the choice holds until the next boot, for everybody."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(lacking, "No such device")

    if lacking is not None:
        monkeypatch.setattr("mesocosm.images.layers.mounts.mount_files", refuse)
    paths = paths_of(tmp_path)
    paths.images.mkdir()
    ImageStore.open(paths.images)
    choice = BackendChoice(paths, LayerMounts(paths.layers))
    with without_mounting(), pytest.raises(Denied, match="mounting is not permitted here") as why:
        choice.get(None)
    assert "CAP_SYS_ADMIN" in str(why.value.hint) and choice.remembered() is None
    assert choice.get(None).name == ("erofs" if lacking is None else "overlay")
