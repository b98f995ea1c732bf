"""Layers are read past the page cache of the file system below wherever that can be, and work where not."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures import host
from fixtures.command import run
from mesocosm.doctor import storage
from mesocosm.linux import mounts, syscalls
from mesocosm.linux.mountinfo import read_mountinfo
from mesocosm.paths import Paths
from provisions import image_of, new_id, opened, shown
from registry_fixtures import write_layout
from tarballs import file

SIZE = 4 << 20
PAGE = 4096
CONTENT = os.urandom(SIZE)
MINCORE = {"x86_64": 27, "aarch64": 232}[os.uname().machine]


def cached_pages(path: Path) -> int:
    """How many pages of a file are in the page cache, mincore(2)."""
    import mmap

    libc = ctypes.CDLL(None, use_errno=True)
    pages = (path.stat().st_size + PAGE - 1) // PAGE
    found = (ctypes.c_ubyte * pages)()
    with path.open("rb") as source, mmap.mmap(source.fileno(), 0, flags=mmap.MAP_PRIVATE) as memory:
        held = ctypes.c_char.from_buffer(memory)
        failed = libc.syscall(
            MINCORE, ctypes.c_void_p(ctypes.addressof(held)), ctypes.c_size_t(memory.size()), found
        )
        del held
    assert not failed, os.strerror(ctypes.get_errno())
    return sum(one & 1 for one in found)


@pytest.fixture(params=["here", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """File systems that can read past their cache."""
    if request.param == "here":
        yield tmp_path
        return
    image, where = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as sparse:
        sparse.truncate(400 << 20)
    run(f"mkfs.{request.param}", "-q", image)
    where.mkdir()
    if subprocess.run(["mount", "-o", "loop", image, where], check=False).returncode:
        host.refuse(f"this kernel has no {request.param}")
    yield where
    run("umount", where)


async def read_through(folder: Path, tmp_path: Path) -> tuple[int, set[str]]:
    """Pages of the layer's file in the cache when a container has read it, and its mount's options."""
    path = f"oci:{write_layout(image_of([[file(b'data', CONTENT)]]), tmp_path / 'layout')}"
    async with opened(folder) as provisioner:
        root = (await provisioner.provision(new_id(), path, backend="erofs", scratch=folder / "s")).root
        (layer,) = (folder / "state/images/layers").glob("*/layer.erofs")
        descriptor = os.open(layer, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        with shown(root, tmp_path / "root") as seen:
            assert (seen / "data").read_bytes() == CONTENT
            pages = cached_pages(layer)
        where = str(folder / "run/layers")
        options = {
            option
            for entry in read_mountinfo()
            if entry.mount_point.startswith(where)
            for option in entry.super_options
        }
    return pages, options


async def test_a_layers_data_is_cached_once(disk: Path, tmp_path: Path) -> None:
    pages, options = await read_through(disk, tmp_path)
    assert "directio" in options
    assert pages < SIZE // PAGE // 16, "metadata alone"


async def test_a_kernel_without_direct_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Linux 6.12 mounts from files and does not know the option; pages are then in memory twice."""
    real = syscalls.fsconfig_set_flag

    def old_kernel(fs_fd: int, key: str | bytes) -> None:
        if key == "directio":
            raise OSError(errno.EINVAL, "Unknown parameter 'directio'")
        real(fs_fd, key)

    monkeypatch.setattr(syscalls, "fsconfig_set_flag", old_kernel)
    pages, options = await read_through(tmp_path, tmp_path)
    assert "directio" not in options
    assert pages >= SIZE // PAGE
    (finding,) = [one for one in storage.examine(Paths(tmp_path, tmp_path)) if one.name == "erofs reads"]
    assert finding.status == "warning" and "twice" in finding.message and "6.13" in finding.fix


async def test_a_file_system_that_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A ramfs refuses O_DIRECT: layers are written and read through its cache, which is where they lie."""
    where = tmp_path / "ram"
    where.mkdir()
    target = os.open(where, os.O_PATH)
    made = mounts.new_mount("ramfs")
    mounts.attach(made, target)
    os.close(target)
    os.close(made)
    try:
        with pytest.raises(OSError, match="Invalid"):
            os.open(where, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT)
        await read_through(where, tmp_path)
        findings = {one.name: one for one in storage.examine(Paths(where, where))}
        assert findings["erofs files"].status == "ok" and findings["erofs reads"].status == "warning"
    finally:
        mounts.detach(str(where))
    findings = {one.name: one for one in storage.examine(Paths(tmp_path, tmp_path))}
    assert findings["erofs reads"].status == "ok"
    assert list(tmp_path.glob(".mesocosm-doctor-*")) == []


async def test_loop_devices_read_directly_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOTBLK, "Block device required")

    monkeypatch.setattr("mesocosm.images.layers.mounts.mount_files", refuse)
    flags = []

    real = mounts.new_mount

    def noted(filesystem: str, *words: object, source: str = "", **more: object) -> int:
        if source.startswith("/dev/loop"):
            flags.append(Path(f"/sys/block/{source.removeprefix('/dev/')}/loop/dio").read_text().strip())
        return real(filesystem, *words, source=source, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(mounts, "new_mount", noted)
    pages, _ = await read_through(tmp_path, tmp_path)
    assert set(flags) == {"1"}
    assert pages < SIZE // PAGE // 16
