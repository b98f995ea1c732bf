"""Names that are restored, names for a platform, and what a pull holds from the first byte to the name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.test_store_faults import DAMAGE
from malicious_registry import MaliciousRegistry
from mesocosm import trace
from mesocosm.errors import NotFound
from mesocosm.images.collect import Collector, Limits
from mesocosm.images.image_store import ImageStore
from mesocosm.images.provisioner import Provisioner
from provisions import image_of, opened
from registry_fixtures import write_layout
from tarballs import archive, directory, file

IMAGE = image_of([[directory(b"d", mode=0o711), file(b"d/a", b"1")], [file(b"d/b", b"2")]])
"""Its upper layer does not describe ``d``: it needs a tree of looks."""
ARM = image_of([[file(b"a", b"2")]], architecture="arm64")
EVERYTHING = Limits(age=0.0)


@pytest.fixture
def at() -> Iterator[Callable[[str, Callable[[], object]], list[str]]]:
    """Do something at the first passing of a point; answers the list that tells whether it was passed."""

    def arrange(point: str, act: Callable[[], object]) -> list[str]:
        passed: list[str] = []

        def observe(name: str) -> None:
            if name == point and not passed:
                passed.append(name)
                act()

        trace.observe(observe)
        return passed

    yield arrange
    trace.observe(None)


@pytest.mark.parametrize("kind", list(DAMAGE))
async def test_q20_a_damaged_name_is_restored(kind: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        layout = f"oci:{write_layout(IMAGE, tmp_path / 'layout')}"
        await provisioner.pull(layout)
        await provisioner.tag(layout, "example.org/a:1")
        refs = provisioner.store.root / "refs"
        before = sorted(ref.reference for ref in provisioner.store.catalogue.refs())
        for path in refs.glob("*.json"):
            path.write_bytes(DAMAGE[kind](path.read_bytes()))
        assert (await provisioner.inspect("example.org/a:1")).digest == IMAGE.digest
        assert sorted(ref.reference for ref in provisioner.store.catalogue.refs()) == before
        assert sorted(path.suffix for path in refs.iterdir()) == [".copy", ".copy", ".json", ".json"]
        inodes = {path.stat().st_ino for path in refs.iterdir()}
        assert len(inodes) == 4, "a copy is another file"
        for path in refs.iterdir():
            path.write_bytes(DAMAGE[kind](path.read_bytes()))
        assert list(provisioner.store.catalogue.refs()) == []
        await provisioner.pull(layout)
        assert [ref.reference for ref in provisioner.store.catalogue.refs()] == [before[-1]]
        await provisioner.remove(layout, force=True)
        assert list(provisioner.store.catalogue.images()) == []


async def test_a_copy_under_another_name_restores_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        layout = f"oci:{write_layout(IMAGE, tmp_path / 'layout')}"
        await provisioner.pull(layout)
        await provisioner.tag(layout, "example.org/a:1")
        one, two = sorted((provisioner.store.root / "refs").glob("*.copy"))
        one.write_bytes(two.read_bytes())
        one.with_suffix(".json").write_bytes(b"")
        assert len(list(provisioner.store.catalogue.refs())) == 1
        await provisioner.tag(IMAGE.digest, "example.org/b:1")
        assert len(list(provisioner.store.catalogue.refs())) == 2


async def test_a_name_is_for_the_platform_of_its_image(tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        layout = f"oci:{write_layout(ARM, tmp_path / 'layout')}"
        await provisioner.pull(layout, platform="linux/arm64")
        await provisioner.tag(layout, "example.org/a:1", platform="linux/arm64")
        await provisioner.tag(ARM.digest, "example.org/b:1")
        await provisioner.convert(layout, "example.org/c:1", "zstd", platform="linux/arm64")
        for name in ("example.org/a:1", "example.org/b:1", "example.org/c:1"):
            assert (await provisioner.inspect(name, platform="linux/arm64")).platform == "linux/arm64"
            with pytest.raises(NotFound, match="for linux/arm64, not for linux/amd64"):
                await provisioner.inspect(name)


@pytest.mark.parametrize("pinned", [False, True])
async def test_a_file_from_the_web_is_held_before_it_is_an_image(
    pinned: bool, at: Callable[[str, Callable[[], object]], list[str]], tmp_path: Path
) -> None:
    """Another process' collection comes between its download and its image."""
    async with MaliciousRegistry() as server, opened(tmp_path) as provisioner:
        data = archive(file(b"a", b"1"))
        server.blobs["tar"] = data
        reference = f"tarball:{server.url}/v2/x/blobs/tar"
        if pinned:
            from registry_fixtures import sha256

            reference += f"@{sha256(data)}"
        store = ImageStore.open(provisioner.store.root)
        passed = at("unnamed.published", lambda: Collector(store).collect(EVERYTHING))
        assert (await provisioner.pull(reference)).complete
        assert passed


@pytest.mark.parametrize("point", ["pull.recorded", "pull.settled", "pull.layers", "pull.documents"])
async def test_an_image_is_held_until_it_has_its_name(
    point: str, at: Callable[[str, Callable[[], object]], list[str]], tmp_path: Path
) -> None:
    async with opened(tmp_path) as provisioner:
        layout = f"oci:{write_layout(IMAGE, tmp_path / 'layout')}"
        store = ImageStore.open(provisioner.store.root)
        passed = at(point, lambda: Collector(store).collect(EVERYTHING))
        assert (await provisioner.pull(layout)).references == (layout,)
        assert passed and store.leases.owners() == []
        await conclude(provisioner)


async def conclude(provisioner: Provisioner) -> None:
    """Nothing is held afterwards: everything can go."""
    plan = await provisioner.prune(EVERYTHING)
    assert len(plan.images) == 1
    assert list(provisioner.store.blobs.list()) == []
