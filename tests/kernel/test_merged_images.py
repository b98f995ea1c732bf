"""Deep stacks mounted as one: made with the pull, kept like a layer, made anew where missing or stale."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures import kernel
from fixtures.command import run
from mesocosm.images.digest import Digest
from mesocosm.images.image import ImageRecord
from mesocosm.images.layers.store import Form
from mesocosm.images.provisioner import Provisioner
from mesocosm.model import ContainerID
from mesocosm.plan.operations import OverlayRoot
from provisions import image_of, new_id, opened, shown
from registry_fixtures import write_layout
from tarballs import directory, file

DEEP = image_of([[file(b"base", b"b" * 9_000)], [file(b"one", b"1" * 5000)], [file(b"two", b"2")]])


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three layers are a deep stack here."""
    kernel.require_merges()
    monkeypatch.setattr("mesocosm.images.image.DEEP", 2)
    yield


@pytest.fixture
def layout(tmp_path: Path) -> str:
    return f"oci:{write_layout(DEEP, tmp_path / 'layout')}"


def record_of(provisioner: Provisioner) -> ImageRecord:
    [record] = provisioner.store.catalogue.images()
    return record


def merge_of(provisioner: Provisioner) -> tuple[Digest, Path]:
    """The merge's name, and its file."""
    merge = record_of(provisioner).merge
    assert merge is not None
    return merge, provisioner.store.layers.content(merge, Form.MERGED)


async def contents(provisioner: Provisioner, layout: str, where: Path) -> dict[str, bytes]:
    """What a new container would see."""
    container = new_id()
    provision = await provisioner.provision(container, layout, scratch=where / f"s-{container}")
    assert isinstance(provision.root, OverlayRoot) and len(provision.root.layers) == 1
    with shown(provision.root, where / f"r-{container}") as root:
        found = {path.name: path.read_bytes() for path in root.iterdir()}
    await provisioner.release(container)
    return found


EXPECTED = {"base": b"b" * 9_000, "one": b"1" * 5000, "two": b"2"}


async def test_the_pull_makes_it_and_starts_use_it(layout: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(layout)
        merge, content = merge_of(provisioner)
        made = content.stat().st_mtime_ns
        preview = await provisioner.preview(layout, scratch=tmp_path / "s")
        assert await contents(provisioner, layout, tmp_path) == EXPECTED
        assert preview.root.layers == (str(provisioner.mounts.where(merge.hex)),)  # type: ignore[union-attr]
        assert await contents(provisioner, layout, tmp_path) == EXPECTED
        assert content.stat().st_mtime_ns == made
        assert provisioner.mounts.mounted() == [merge.hex]
        layers = [str(file) for file in provisioner.store.merges.files(record_of(provisioner))]
        run("fsck.erofs", *(f"--device={layer}" for layer in layers), content)


async def test_it_is_made_anew_where_it_is_missing_or_of_other_files(layout: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(layout)
        merge, content = merge_of(provisioner)
        right = content.read_bytes()
        shutil.rmtree(content.parent)
        assert await contents(provisioner, layout, tmp_path) == EXPECTED
        assert content.read_bytes() == right
        provisioner.mounts.drop([merge.hex])
        record = content.with_name("layer.json")
        stale = record.read_text().replace('"blob":"sha256:', '"blob":"sha256:00')[:-2] + "}"
        record.write_text(stale)
        content.chmod(0o600)
        content.write_bytes(b"of other files")
        assert await contents(provisioner, layout, tmp_path) == EXPECTED
        assert content.read_bytes() == right


async def test_it_is_counted_shown_and_collected(layout: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        image = await provisioner.pull(layout)
        merge, content = merge_of(provisioner)
        usage = await provisioner.usage()
        [use] = [layer for layer in usage.by_layer if layer.diff_id == str(merge)]
        assert use.forms == ("merged",) and use.size == content.stat().st_size
        assert use.images == (image.digest,) and image.stored[-1] == str(merge)
        assert image.size == sum(layer.size for layer in usage.by_layer) == usage.layers
        assert (await provisioner.prune()).empty
        assert content.exists()
        container = ContainerID.generate()
        await provisioner.provision(container, layout, scratch=tmp_path / "s")
        await provisioner.remove(image.digest, force=True)
        assert content.exists() and provisioner.mounts.has(merge.hex)
        await provisioner.release(container)
        plan = await provisioner.prune()
        assert not content.exists()
        assert plan.empty or (str(merge), Form.MERGED) in plan.layers


@pytest.mark.parametrize("damaged", ["merge", "layer"])
async def test_a_flipped_bit_is_found_and_mended(damaged: str, layout: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(layout)
        assert await contents(provisioner, layout, tmp_path) == EXPECTED
        merge, content = merge_of(provisioner)
        layers = provisioner.store.merges.files(record_of(provisioner))
        name = merge if damaged == "merge" else record_of(provisioner).diff_ids[0]
        flip(content if damaged == "merge" else layers[0])
        verdict = await provisioner.verify(layout, repair=True)
        assert verdict.damaged == (str(name),)
        assert provisioner.mounts.mounted() == [], "a mount would keep the damaged file"
        assert await contents(provisioner, layout, tmp_path) == EXPECTED
        assert (await provisioner.verify(layout)).sound


def flip(path: Path) -> None:
    """Another bit in the middle of a file."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def test_directories_that_layers_leave_out_look_the_same(tmp_path: Path) -> None:
    """The look of what an upper layer only implies is the lower one's (looks.py), in one mount too."""
    layers = [[directory(b"d", 0o711)], [file(b"d/a")], [file(b"d/b")]]
    path = f"oci:{write_layout(image_of(layers), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        provision = await provisioner.provision(new_id(), path, scratch=tmp_path / "s")
        with shown(provision.root, tmp_path / "root") as root:
            assert (root / "d").stat().st_mode & 0o7777 == 0o711
