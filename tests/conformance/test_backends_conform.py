"""One image through every backend: the same tree, whatever the layers do to each other."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.command import run
from fixtures.images import Layout
from mesocosm.errors import Exhausted, InvalidConfig, Unsupported
from mesocosm.images.backends import OURS, backend_class
from mesocosm.plan.operations import BindRoot, OverlayRoot
from provisions import image_of, new_id, opened, shown
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


@pytest.mark.parametrize("backend", STACKING)
async def test_whatever_layers_do_to_each_other(backend: str, tmp_path: Path) -> None:
    path = f"oci:{write_layout(image_of(LAYERS), tmp_path / 'layout')}"
    tree = await tree_of(tmp_path, path, backend)
    assert {name for name in tree if not name.startswith(b"sticky")} == {
        *(b"d", b"d/kept", b"d/replaced", b"d/sub", b"d/sub-2", b"opaque", b"opaque/shown", b"opaque/third"),
        *(b"file-to-directory", b"file-to-directory/y", b"directory-to-file"),
        *(b"link-to-directory", b"link-to-directory/own", b"set-uid", b"capable", b"attribute", b"owned"),
        *(b"fifo", b"one", b"two"),
    }
    assert tree[b"d"].mode == 0o750 and tree[b"sticky"].mode == 0o1777
    assert tree[b"directory-to-file"].kind == "file" and tree[b"file-to-directory"].kind == "directory"
    assert tree[b"set-uid"].mode == 0o4755 and (tree[b"owned"].uid, tree[b"owned"].gid) == (1000, 100)
    assert tree[b"capable"].xattrs == (("security.capability", CAPABILITY),)
    assert tree[b"attribute"].xattrs == (("user.a", b"\x00\xff"),)
    assert tree[b"two"].nlink == 2 and tree[b"two"].same_as == tree[b"one"].same_as
    assert tree[b"d/sub-2"].content == tree[b"d/sub"].content


async def test_all_backends_show_the_same_tree(tmp_path: Path) -> None:
    path = f"oci:{write_layout(image_of(LAYERS), tmp_path / 'layout')}"
    trees = {backend: await tree_of(tmp_path, path, backend) for backend in STACKING}
    assert trees["overlay"] == trees["erofs"]
    assert trees["merged"] == trees["erofs"]
    assert trees["copy"] == trees["erofs"]


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


@pytest.mark.parametrize("backend", STACKING)
async def test_what_a_container_changes_stays_its_own(backend: str, tmp_path: Path) -> None:
    """R-39 kin: two containers on one image; what one writes neither the other nor the layer has."""
    path = f"oci:{write_layout(image_of([[file(b'a', b'image')]]), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        backend = "erofs" if backend == "merged" else backend
        one = await provisioner.provision(new_id(), path, backend=backend, scratch=tmp_path / "one")
        with shown(one.root, tmp_path / "root-one") as root:
            (root / "a").write_text("changed")
            (root / "new").write_text("new")
            two = await provisioner.provision(new_id(), path, backend=backend, scratch=tmp_path / "two")
            with shown(two.root, tmp_path / "root-two") as other:
                assert (other / "a").read_text() == "image" and not (other / "new").exists()
            assert (root / "a").read_text() == "changed"


@pytest.mark.parametrize("count", [65, 500])
async def test_deep_images_work(count: int, tmp_path: Path) -> None:
    """More than 64 layers; 500 is what overlayfs takes (I-15: option strings would be cut at a page)."""
    layers = [[file(b"n", b"%d" % number), file(b"own-%d" % number, b"x")] for number in range(count)]
    path = f"oci:{write_layout(image_of(layers), tmp_path / 'layout')}"
    tree = await tree_of(tmp_path, path, "erofs")
    assert len(tree) == count + 1
    store = tmp_path / "state/images"
    assert len(list((store / "merged").iterdir())) == 1, "one mount, not one for each layer"


async def test_more_layers_than_overlayfs_takes_are_refused_by_name(tmp_path: Path) -> None:
    path = f"oci:{write_layout(image_of([[]] * 501), tmp_path / 'layout')}"
    with pytest.raises(Exhausted, match=r"oci:.*/layout has 501 layers, more than the 500"):
        await tree_of(tmp_path, path, "erofs")


async def test_bind_shows_one_layer_read_only(tmp_path: Path) -> None:
    """BK-3."""
    single = f"oci:{write_layout(image_of(LAYERS[:1]), tmp_path / 'single')}"
    double = f"oci:{write_layout(image_of(LAYERS[:2]), tmp_path / 'double')}"
    async with opened(tmp_path) as provisioner:
        provision = await provisioner.provision(new_id(), single, backend="bind", scratch=tmp_path / "s")
        assert isinstance(provision.root, BindRoot) and provision.root.read_only
        with shown(provision.root, tmp_path / "root") as root:
            assert (root / "d/kept").read_bytes() == b"k" * 10_000
            with pytest.raises(OSError, match="Read-only"):
                (root / "new").write_text("x")
        with pytest.raises(Unsupported, match="one layer"):
            await provisioner.provision(new_id(), double, backend="bind", scratch=tmp_path / "s")


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


async def test_a_layer_twice_in_one_image(tmp_path: Path) -> None:
    """overlayfs refuses one directory twice (ELOOP); the topmost of the two is what counts."""
    layers = [
        [file(b"a", b"1"), file(b"b", b"1")],
        [file(b"a", b"2"), file(b".wh.b", b"")],
        [file(b"a", b"1"), file(b"b", b"1")],
    ]
    path = f"oci:{write_layout(image_of(layers), tmp_path / 'layout')}"
    trees = [await tree_of(tmp_path, path, backend) for backend in STACKING]
    assert trees[1:] == trees[:1] * 3
    assert set(trees[0]) == {b"a", b"b"}


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


async def test_a_layer_that_hides_everything_below_it(tmp_path: Path) -> None:
    """OCI image spec, layer.md "Opaque Whiteout", of the root itself."""
    layers = [
        [file(b"a"), directory(b"d"), file(b"d/x")],
        [file(b".wh..wh..opq", b""), file(b"b")],
        [file(b"c")],
    ]
    path = f"oci:{write_layout(image_of(layers), tmp_path / 'layout')}"
    trees = [await tree_of(tmp_path, path, backend) for backend in STACKING]
    assert [set(tree) for tree in trees] == [{b"b", b"c"}] * 4
