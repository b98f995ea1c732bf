"""The ways in which a layer reaches a root on other hosts: through loop devices, and by sharing file data."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fixtures import host, kernel
from fixtures.command import run
from layers import ingest
from mesocosm.errors import Unsupported
from mesocosm.images.backends.copy import copy_layer
from mesocosm.images.digest import Digest
from mesocosm.images.layers.mounts import LayerMounts, mount_by_loop
from mesocosm.images.layers.store import Form
from mesocosm.linux import loop, mounts
from mesocosm.plan.operations import OverlayRoot
from provisions import image_of, new_id, opened, shown
from registry_fixtures import write_layout
from tarballs import Member, archive, file

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_EXTENT_SHARED = 0x2000
LAYERS = [[file(b"base", b"b" * 9_000)], [file(b"one", b"1" * 5_000)], [file(b"two", b"2")]]
EXPECTED = {"base": b"b" * 9_000, "one": b"1" * 5_000, "two": b"2"}


def loops_of(folder: Path) -> set[str]:
    """The loop devices that have a file below a folder."""
    found = set()
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if entry.read_text().startswith(str(folder)):
                found.add(entry.parts[3])
        except FileNotFoundError:
            continue  # it went back meanwhile
    return found


@pytest.fixture
def by_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that mounts block devices only (before Linux 6.12)."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOTBLK, "Block device required")

    monkeypatch.setattr("mesocosm.images.layers.mounts.mount_files", refuse)


@pytest.mark.parametrize("deep", [32, 2])
async def test_layers_through_loop_devices(
    deep: int, by_loop: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each by itself, and as devices of a merge; no device is left when the mounts are gone."""
    del by_loop
    monkeypatch.setattr("mesocosm.images.image.DEEP", deep)
    path = f"oci:{write_layout(image_of(LAYERS), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        provision = await provisioner.provision(new_id(), path, backend="erofs", scratch=tmp_path / "s")
        assert len(loops_of(tmp_path)) == len(LAYERS) + (deep == 2 and kernel.mounts_merges())
        with shown(provision.root, tmp_path / "root") as root:
            assert {one.name: one.read_bytes() for one in root.iterdir()} == EXPECTED
    assert loops_of(tmp_path) == set()


async def test_a_deep_image_where_no_merge_can_be_mounted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before Linux 5.16: its layers are stacked, and nothing is made that cannot be used; later it is."""
    monkeypatch.setattr("mesocosm.images.image.DEEP", 2)
    path = f"oci:{write_layout(image_of(LAYERS), tmp_path / 'layout')}"

    async def layers_of_a_root(name: str) -> int:
        step = (await provisioner.provision(new_id(), path, backend="erofs", scratch=tmp_path / name)).root
        assert isinstance(step, OverlayRoot)
        with shown(step, tmp_path / f"{name}-root") as root:
            assert {one.name: one.read_bytes() for one in root.iterdir()} == EXPECTED
        return len(step.layers)

    async with opened(tmp_path) as provisioner:
        with monkeypatch.context() as patch:
            patch.setattr("mesocosm.images.layers.merging.takes_devices", lambda: False)
            image = await provisioner.pull(path, backend="erofs")
            assert image.merge is not None
            merge = Digest.parse(image.merge)
            assert await layers_of_a_root("before") == len(LAYERS)
            assert not provisioner.store.layers.has(merge, Form.MERGED)
            assert (await provisioner.verify(path)).sound
        assert await layers_of_a_root("after") == (1 if kernel.mounts_merges() else len(LAYERS))
        assert provisioner.store.layers.has(merge, Form.MERGED) == kernel.mounts_merges()


def test_what_cannot_be_mounted_leaves_no_loop_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    damaged = tmp_path / "layer.erofs"
    damaged.write_bytes(bytes(1 << 16))
    with pytest.raises(OSError):
        mount_by_loop((damaged, damaged))
    assert loops_of(tmp_path) == set()

    def refuse(file: int) -> tuple[int, str]:
        del file
        raise OSError(errno.ENOENT, "No such file or directory", "/dev/loop-control")

    monkeypatch.setattr(loop, "attach", refuse)
    with pytest.raises(Unsupported, match="no loop device"):
        mount_by_loop((damaged,))


def test_a_layer_has_one_superblock_on_a_host(tmp_path: Path) -> None:
    """Two superblocks would keep two copies of its pages."""
    made: list[Sequence[Path]] = []

    def mount(files: Sequence[Path]) -> int:
        made.append(files)
        return mounts.tmpfs(source="layer")

    layers = [LayerMounts(tmp_path / "layers", mount) for _ in range(2)]
    places = [one.hold({"a": (tmp_path / "a.erofs",)}) for one in layers]
    try:
        assert places[0] == places[1] and len(made) == 1
    finally:
        layers[0].drop(["a"])


def test_a_layer_seen_mounted_is_looked_at_again_after_any_change(tmp_path: Path) -> None:
    """By another process' hand, by anybody's: what is not mounted any more is mounted anew."""
    made: list[Sequence[Path]] = []

    def mount(files: Sequence[Path]) -> int:
        made.append(files)
        return mounts.tmpfs(source="layer")

    ours, other = (LayerMounts(tmp_path / "layers", mount) for _ in range(2))
    files = {name: (tmp_path / name,) for name in ("a", "b")}
    try:
        unmounting: tuple[Callable[[], None], ...] = (
            lambda: other.drop(["a"]),
            lambda: mounts.detach(str(other.where("a"))),
        )
        for count, unmount in enumerate(unmounting):
            for _ in range(3):
                ours.hold(files)
            assert len(made) == 2 + count
            unmount()
        ours.hold(files)
        assert len(made) == 4 and ours.mounted() == ["a", "b"]
    finally:
        ours.drop(files)


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """A btrfs of the test's own."""
    image, where = tmp_path / "btrfs.img", tmp_path / "btrfs"
    with image.open("wb") as sparse:
        sparse.truncate(128 << 20)
    run("mkfs.btrfs", "-q", image)
    where.mkdir()
    if subprocess.run(["mount", "-o", "loop", image, where], capture_output=True, check=False).returncode:
        host.refuse("this kernel has no btrfs")
    yield where
    run("umount", where)


def is_shared(path: Path) -> bool:
    """Whether another file has the same extents (fiemap.rst)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        asked = bytearray(struct.pack("=QQLLLL", 0, 1 << 62, 1, 0, 1, 0) + bytes(56))
        fcntl.ioctl(fd, FS_IOC_FIEMAP, asked)
    finally:
        os.close(fd)
    return bool(struct.unpack_from("=L", asked, 32 + 40)[0] & FIEMAP_EXTENT_SHARED)


def test_copies_share_data_where_the_file_system_can(btrfs: Path) -> None:
    """BK-4 with FICLONE; what one copy changes the layer does not have."""
    layer, copy = btrfs / "layer", btrfs / "copy"
    for folder in (layer, copy):
        folder.mkdir()
    (layer / "data").write_bytes(os.urandom(1 << 20))
    (layer / "data").chmod(0o4755)
    os.utime(layer / "data", ns=(1, 1_234_567_890_123_456_789))
    copy_layer(layer, copy)
    assert is_shared(copy / "data") and is_shared(layer / "data")
    found = (copy / "data").stat()
    assert (found.st_mode & 0o7777, found.st_mtime_ns) == (0o4755, 1_234_567_890_123_456_789)
    before = (layer / "data").read_bytes()
    assert (copy / "data").read_bytes() == before
    with (copy / "data").open("r+b") as file:
        file.write(b"changed")
    assert (layer / "data").read_bytes() == before


def test_what_a_file_system_cannot_keep_is_told_in_words(tmp_path: Path) -> None:
    """A ramfs has no attributes at all, as a tmpfs has no ``user.*`` before Linux 6.6."""
    layer, copy = tmp_path / "layer", tmp_path / "copy"
    for folder in (layer, copy):
        folder.mkdir()
    (layer / "data").write_text("data")
    os.setxattr(layer / "data", "user.note", b"note")
    mounts.attach_at(memory := mounts.new_mount("ramfs"), str(copy))
    os.close(memory)
    try:
        with pytest.raises(Unsupported, match=r"copy/data cannot have the attribute user\.note") as raised:
            copy_layer(layer, copy)
        assert "Linux 6.6" in (raised.value.hint or "")
        with pytest.raises(Unsupported, match="cannot hold the attributes of b'data'") as raised:
            member = Member(b"data", data=b"x", pax=((b"SCHILY.xattr.user.a", b"a"),))
            ingest("apply", copy / "unpacked", archive(member))
        assert "Linux 6.6" in (raised.value.hint or "")
    finally:
        mounts.detach(str(copy))
