"""What ``doctor`` says of the ways to make a root: each tried on this host, and which of them is used."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fixtures import kernel
from fixtures.command import run
from mesocosm.doctor import storage
from mesocosm.doctor.finding import Finding
from mesocosm.errors import Unsupported
from mesocosm.images.backends.choice import BackendChoice
from mesocosm.images.backends.erofs import ErofsBackend
from mesocosm.images.layers.mounts import Files, LayerMounts
from mesocosm.paths import Paths
from provisions import opened, paths_of


def findings(paths: Paths) -> dict[str, Finding]:
    """All of them, by name."""
    return {found.name: found for found in storage.examine(paths)}


async def test_the_backend_that_is_used_is_named(tmp_path: Path) -> None:
    paths = paths_of(tmp_path)
    before = findings(paths)["backend"]
    assert before.status == "ok"
    async with opened(tmp_path):
        used = BackendChoice(paths, LayerMounts(paths.layers)).get(None).name
    assert before.message.startswith(f"{used} makes roots")
    assert findings(paths)["backend"] == before


async def test_a_host_that_can_do_better_by_now_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found once is kept for a boot: a module that is loaded later changes nothing by itself."""

    def refuse(self: ErofsBackend) -> None:
        raise Unsupported("this kernel has no EROFS")

    paths = paths_of(tmp_path)
    async with opened(tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(ErofsBackend, "probe", refuse)
            assert BackendChoice(paths, LayerMounts(paths.layers)).get(None).name == "overlay"
            assert findings(paths)["backend"].message.startswith("overlay makes roots: the first of")
    found = findings(paths)["backend"]
    assert (found.status, found.message) == (
        "warning",
        "overlay makes roots, as was found since boot; by now it would be erofs",
    )
    note = paths.runtime / "backend.json"
    assert found.fix == f"remove {note}: it is found anew"
    note.unlink()
    assert findings(paths)["backend"].status == "ok"


def test_a_kernel_that_mounts_files_needs_no_loop_devices(tmp_path: Path) -> None:
    """Linux 6.12, on the file systems that tests run on."""
    kernel.require_file_mounts(tmp_path)
    assert findings(paths_of(tmp_path))["erofs mounts"].message == "from the files themselves"


def test_loop_devices_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that mounts no files (ENOTBLK) still has EROFS layers, by a device each."""

    def refuse(files: Files) -> int:
        raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK))

    monkeypatch.setattr(storage, "mount_files", refuse)
    monkeypatch.setattr("mesocosm.images.layers.mounts.mount_files", refuse)
    found = findings(paths_of(tmp_path))
    assert found["erofs files"].status == "ok" and found["backend"].message.startswith("erofs")
    assert found["erofs mounts"].status == "warning"
    assert found["erofs mounts"].message == (
        "through a loop device for each layer: this kernel mounts no files of this file system"
    )
    assert "erofs reads" not in found  # they are the loop driver's


def test_a_file_system_may_need_loop_devices_too(tmp_path: Path) -> None:
    """tmpfs has no files that the kernel would mount, whatever its version."""
    folder = tmp_path / "memory"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", folder)
    try:
        found = findings(paths_of(folder))
    finally:
        run("umount", folder)
    assert found["erofs files"].status == "ok" and found["backend"].message.startswith("erofs")
    assert found["erofs mounts"].status == "warning" and "ext4, xfs or btrfs" in found["erofs mounts"].fix
