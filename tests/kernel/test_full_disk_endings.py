"""A disk that is full keeps nobody from being ended, and what could not be written is told by its path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesocosm import ContainerConfig, Containerizer
from mesocosm.lifecycle import State
from mesocosm.linux import mounts


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    disk = tmp_path / "small"
    disk.mkdir()
    place = os.open(disk, os.O_PATH)
    made = mounts.new_mount("tmpfs", [("size", "2m")])
    mounts.attach(made, place)
    os.close(made)
    os.close(place)
    yield disk
    mounts.detach(str(disk))


def fill(disk: Path) -> Path:
    """Leave nothing free."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            with pytest.raises(OSError, match="No space left"):  # noqa: PT012
                while True:
                    file.write(bytes(size))
    return ballast


@pytest.mark.parametrize("full", ["state", "runtime"])
async def test_one_is_ended_and_forgotten(full: str, small: Path, tmp_path: Path, busybox_root: Path) -> None:
    places = {"state": tmp_path / "state", "runtime": tmp_path / "run", full: small / full}
    async with Containerizer.open(root=places["state"], runtime=places["runtime"]) as containers:
        config = ContainerConfig(image=f"dir:{busybox_root}", command=("sleep", "100000"))
        container = await containers.create(config)
        await containers.start(container)
        ballast = fill(small)
        await containers.remove(container, force=True)
        assert containers.list() == ()
        assert str(container) not in containers.host.cgroups.list()
        ballast.unlink()


async def test_one_that_is_to_be_kept_is_ended_all_the_same(
    small: Path, tmp_path: Path, busybox_root: Path
) -> None:
    """How it ended is written as soon as there is room."""
    async with Containerizer.open(root=small / "state", runtime=small / "run") as containers:
        config = ContainerConfig(image=f"dir:{busybox_root}", command=("sleep", "100000"))
        container = await containers.create(config)
        await containers.start(container)
        ballast = fill(small)
        with pytest.raises(OSError, match=r"No space left on device: '.*/termination\.json'"):
            await containers.destroy(container)
        assert str(container) not in containers.host.cgroups.list()
        with pytest.raises(OSError, match=r"No space left on device: '.*/container\.json'"):
            await containers.create(config)
        ballast.unlink()
        await containers.destroy(container)
        assert [report.state for report in containers.list()] == [State.DESTROYED]
