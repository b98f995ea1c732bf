"""Every backend, on every kind of file system that it treats differently, against one table of layers."""

from __future__ import annotations

import errno
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from fixtures import host, kernel
from fixtures.command import run
from layer_table import ROWS, Row
from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.plan.operations import OverlayRoot
from provisions import image_of, new_id, opened, shown
from registry_fixtures import write_layout
from tarballs import archive
from trees import Seen, differences, snapshot


class Way(NamedTuple):
    """A backend, the file system that its store lies on, and what is taken from the kernel."""

    backend: str
    disk: str = ""
    by_loop: bool = False
    merged: bool = False


WAYS = {
    "bind": Way("bind"),
    "copy": Way("copy"),
    "copy on xfs": Way("copy", "xfs"),
    "copy on btrfs": Way("copy", "btrfs"),
    "overlay": Way("overlay"),
    "overlay on xfs": Way("overlay", "xfs"),
    "overlay on btrfs": Way("overlay", "btrfs"),
    "erofs": Way("erofs"),
    "erofs by loop": Way("erofs", by_loop=True),
    "erofs on xfs": Way("erofs", "xfs"),
    "erofs on btrfs": Way("erofs", "btrfs"),
    "merged": Way("erofs", merged=True),
    "merged by loop": Way("erofs", by_loop=True, merged=True),
}

CANNOT = {("copy on xfs", "the longest link"), ("overlay on xfs", "the longest link")}
"""XFS keeps links of up to 1023 bytes (XFS_SYMLINK_MAXLEN)."""

DISKS: dict[str, tuple[str, ...]] = {"xfs": ("-q", "-m", "reflink=1,bigtime=1"), "btrfs": ("-q",)}
"""Further kinds of file systems, and how one is made."""


class Disk(NamedTuple):
    """A file system of a kind, and where it is mounted; neither where it is the tests' own."""

    kind: str = ""
    where: Path | None = None

    def ways(self) -> list[str]:
        """The ways that are for it, after those that the others are compared with."""
        compared = [way for way in WAYS if WAYS[way].backend in ("bind", "copy") and not WAYS[way].disk]
        return [*dict.fromkeys([*compared, *(way for way in WAYS if WAYS[way].disk == self.kind)])]


@pytest.fixture(scope="module", params=["here", *DISKS])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    """The tests' own file system, or an empty one of another kind on a loop device."""
    kind = request.param
    if kind == "here":
        yield Disk()
        return
    folder = tmp_path_factory.mktemp("disks")
    image, where = folder / f"{kind}.img", folder / kind
    with image.open("wb") as file:
        file.truncate(1 << 30)
    run(f"mkfs.{kind}", *DISKS[kind], image)
    where.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, where], capture_output=True, check=False)
    if done.returncode:
        host.refuse(f"this kernel mounts no {kind}: {done.stderr.decode()}")
    yield Disk(kind, where)
    run("umount", where)


@contextmanager
def kernel_of(way: Way) -> Iterator[None]:
    """A kernel that mounts block devices only, and deep stacks that begin with the second layer."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOTBLK, "Block device required")

    with pytest.MonkeyPatch.context() as patch:
        if way.by_loop:
            patch.setattr("mesocosm.images.layers.mounts.mount_files", refuse)
        if way.merged:
            patch.setattr("mesocosm.images.image.DEEP", 1)
        yield


async def tree_of(way: Way, folder: Path, reference: str) -> dict[bytes, Seen]:
    """The tree that a container would see."""
    async with opened(folder) as provisioner:
        with kernel_of(way):
            provision = await provisioner.provision(
                new_id(), reference, backend=way.backend, scratch=folder / "scratch"
            )
        if way.merged and kernel.mounts_merges():
            assert isinstance(provision.root, OverlayRoot) and len(provision.root.layers) <= 2  # with looks
        with shown(provision.root, folder / "root") as root:
            tree = snapshot(root, holes=True)
    del tree[b"."]  # its look is the container's own directory's
    return tree


def told(tree: dict[bytes, Seen], row: Row, ignore: tuple[str, ...] = ()) -> list[str]:
    """In what a tree is not what the row says; ``stored`` bytes of data are the most."""
    lines = [f"not shown: {name!r}" for name in row.shows.keys() - tree.keys()]
    lines += [f"shown too: {name!r}" for name in tree.keys() - row.shows.keys()]
    for name in row.shows.keys() & tree.keys():
        for field, value in row.shows[name].items():
            if field == "stored":
                found = sum(end - start for start, end in tree[name].data or ())
                right = isinstance(value, int) and 0 < found <= value
            else:
                found = getattr(tree[name], field)
                right = field in ignore or found == value
            if not right:
                lines.append(f"{name!r}: {field} is {found!r}, not {value!r}")
    return lines


def takes(way: str, name: str) -> bool:
    """Whether the way has to show the row; it has to refuse it else."""
    return (way, name) not in CANNOT and (WAYS[way].backend != "bind" or len(ROWS[name].layers) == 1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("huge" in name)) for name in ROWS]
)
async def test_every_backend_shows_what_the_table_says(name: str, disk: Disk, tmp_path: Path) -> None:
    """And all of them the same, in every field."""
    row = ROWS[name]
    reference = f"oci:{write_layout(image_of(row.layers), tmp_path / 'layout')}"
    first: dict[bytes, Seen] = {}
    problems = []
    for way in disk.ways():
        with tempfile.TemporaryDirectory(dir=disk.where if WAYS[way].disk else tmp_path) as folder:
            if not takes(way, name):
                with pytest.raises((Unsupported, InvalidConfig)):
                    await tree_of(WAYS[way], Path(folder), reference)
                continue
            tree = await tree_of(WAYS[way], Path(folder), reference)
        problems += [f"{way}: {line}" for line in told(tree, row)]
        first = first or tree
        problems += [f"{way} differs: {line}" for line in differences(tree, first, ignore=row.free)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.umoci])
def test_umoci_shows_the_same(name: str, tmp_path: Path) -> None:
    """The table is not ours alone."""
    row = ROWS[name]
    layout = write_layout(image_of(row.layers), tmp_path / "layout")
    run("umoci", "raw", "unpack", "--image", f"{layout}:latest", tmp_path / "tree")
    tree = snapshot(tmp_path / "tree", holes=True)
    del tree[b"."]
    assert told(tree, row, row.ignore) == []


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.tar])
def test_gnu_tar_shows_the_same(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    (layer,) = row.layers
    (tmp_path / "tree").mkdir()
    (tmp_path / "layer.tar").write_bytes(archive(*layer))
    run(
        "tar",
        "-C",
        tmp_path / "tree",
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "-xpf",
        tmp_path / "layer.tar",
    )
    tree = snapshot(tmp_path / "tree", holes=True)
    del tree[b"."]
    assert told(tree, row) == []
