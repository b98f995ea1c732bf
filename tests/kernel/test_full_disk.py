"""A full disk during a pull: garbage goes once, then the pull fails, and nothing else does (Q-06)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mesocosm.errors import Exhausted
from mesocosm.linux import mounts
from provisions import image_of, new_id, opened, shown
from registry_fixtures import write_layout
from tarballs import file

MIB = 1 << 20


@contextmanager
def small_disk(where: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes."""
    where.mkdir()
    fd = mounts.tmpfs(size=size)
    target = os.open(where, os.O_PATH | os.O_DIRECTORY)
    mounts.attach(fd, target)
    os.close(target)
    os.close(fd)
    try:
        yield where
    finally:
        mounts.detach(str(where))


def layout(folder: Path, size: int, *, compressible: bool = False) -> str:
    """An image that cannot be compressed, or is small until it is unpacked."""
    data = os.urandom(1 << 10) * (size >> 10) if compressible else os.urandom(size)
    return f"oci:{write_layout(image_of([[file(b'data', data)]]), folder)}"


@pytest.mark.parametrize("backend", ["erofs", "overlay"])
async def test_q06_a_full_disk_fails_the_pull_and_nothing_else(backend: str, tmp_path: Path) -> None:
    small, large = layout(tmp_path / "small", MIB), layout(tmp_path / "large", 8 * MIB)
    with small_disk(tmp_path / "disk", 12 * MIB) as disk:
        async with opened(disk) as provisioner:
            container = new_id()
            running = await provisioner.provision(container, small, backend=backend, scratch=disk / "s")
            with shown(running.root, tmp_path / "root") as root:
                with pytest.raises(Exhausted, match="space") as caught:
                    await provisioner.pull(large, backend=backend)
                assert "\n" not in str(caught.value) and caught.value.hint
                assert (root / "data").stat().st_size == MIB
            images = disk / "state/images"
            assert list((images / "ingest").iterdir()) == []
            assert list((images / "trash").iterdir()) == []
            assert len(list(provisioner.store.layers.list())) == 1
            again = await provisioner.provision(new_id(), small, backend=backend, scratch=disk / "t")
            assert again.identity.digest == running.identity.digest


async def test_i09_a_bound_is_no_reason_to_collect(tmp_path: Path) -> None:
    """I-09: a layer that is too large for its own good fails; what is unnamed stays."""
    unnamed, bomb = layout(tmp_path / "old", 4096), image_of([[file(b"zeroes", bytes(100 * MIB))]])
    async with opened(tmp_path) as provisioner:
        kept = await provisioner.pull(unnamed)
        provisioner.store.catalogue.unname(kept.references[0])
        with pytest.raises(Exhausted):
            await provisioner.pull(f"oci:{write_layout(bomb, tmp_path / 'bomb')}")
        assert [image.digest for image in await provisioner.images()] == [kept.digest]
        assert not list((tmp_path / "state/images/ingest").iterdir())


@pytest.mark.parametrize("backend", ["erofs", "overlay"])
@pytest.mark.parametrize("where", ["blob", "layer"])
async def test_q06_garbage_makes_room(where: str, backend: str, tmp_path: Path) -> None:
    """What nobody names is collected once, whatever did not fit; then the same pull goes through."""
    old = layout(tmp_path / "old", 4 * MIB)
    large = {"blob": (4 * MIB, False), "layer": (7 * MIB, True)}[where]
    new = layout(tmp_path / "new", large[0], compressible=large[1])
    with small_disk(tmp_path / "disk", 14 * MIB) as disk:
        async with opened(disk) as provisioner:
            first = await provisioner.pull(old, backend=backend)
            reference = first.references[0]
            provisioner.store.catalogue.unname(reference)
            second = await provisioner.pull(new, backend=backend)
            assert [image.digest for image in await provisioner.images()] == [second.digest]
