"""``kill -9`` between any two steps of an image store's life: it is consistent, and the next command goes on.

Q-01 kin, Q-18, Q-19: afterwards no partial layer is readable, no mount and no unfinished file is left, every
image that is listed is whole, and the same pulls succeed.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from crash import invariants
from fixtures.images import Layout
from fixtures.registry import Registry
from mesocosm.model import ContainerID
from provisions import image_of, opened, shown
from registry_fixtures import write_layout
from tarballs import file

PROGRAM = Path(__file__).parent / "dying_provisioner.py"
SHARED = file(b"base", b"b" * 50_000)
ONE = image_of([[SHARED], [file(b"d/one", b"1")]])
TWO = image_of([[SHARED, file(b"d/x")], [file(b"d/two", b"2")], [SHARED]])


ALLOWED = 'allow-schema1 = ["127.0.0.1:*/old/*"]\n'


def layouts(folder: Path) -> list[str]:
    """The names of both images, in layouts beside a store."""
    return [f"oci:{folder.parent / name}" for name in ("layout-one", "layout-two")]


def live(folder: Path, *rest: str, names: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program on a store below ``folder``."""
    folder.mkdir(exist_ok=True)
    (folder / "policy.toml").write_text(ALLOWED)
    for name in ("state", "run"):
        (folder / name).mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), *(names or layouts(folder)), *rest],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def check(folder: Path, at: str, names: list[str] | None = None) -> None:
    """The store is whole, goes on, and ends empty."""
    async with opened(folder, ALLOWED) as provisioner:
        await provisioner.recover(set())
        assert provisioner.store.leases.owners() == [], at
        for image in await provisioner.images():
            assert (await provisioner.verify(image.digest)).sound, at
            assert image.complete, at
        for name, own in zip(names or layouts(folder), ("one", "two"), strict=True):
            container = ContainerID.parse(own)
            provision = await provisioner.provision(container, name, scratch=folder / own)
            with shown(provision.root, folder / "root") as root:
                assert (root / "d" / own).exists() and (root / "base").stat().st_size == 50_000, at
            await provisioner.release(container)
        for image in await provisioner.images():
            await provisioner.remove(image.digest, force=True)
        invariants.let_a_day_pass(folder / "state/images")
        await provisioner.prune()
    assert invariants.left_over(folder / "state/images", folder / "run") == [], at


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_killed_at_every_point(tmp_path: Path) -> None:
    write_layout(ONE, tmp_path / "layout-one")
    write_layout(TWO, tmp_path / "layout-two")
    dry = live(tmp_path / "dry")
    assert dry.returncode == 0, dry.stderr
    passed = Counter(dry.stdout.split())
    assert {point.partition(".")[0] for point in passed} >= {
        *("pull", "layers", "provisioner", "mounts", "collect")
    }
    await check(tmp_path / "dry", "unharmed")
    for point, count in passed.items():
        for number in {1, count}:
            folder = tmp_path / f"{point}-{number}"
            died = live(folder, point, str(number))
            assert died.returncode == -9, f"{point} {number}: {died.returncode} {died.stderr}"
            await check(folder, f"{point} {number}")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_killed_while_an_image_in_schema_1_is_pulled(tmp_path: Path, registry: Registry) -> None:
    write_layout(ONE, tmp_path / "layout-one")
    write_layout(TWO, tmp_path / "layout-two")
    old = registry.push(Layout(tmp_path / "layout-one", "latest"), "old/one:1", "--format", "v2s1")
    names = [old, layouts(tmp_path / "any")[1]]
    dry = live(tmp_path / "dry", names=names)
    assert dry.returncode == 0, dry.stderr
    passed = [point for point in dict.fromkeys(dry.stdout.split()) if point.startswith(("pull.", "blobs."))]
    assert {"pull.outlined", "pull.measured", "pull.documents", "pull.recorded"} <= set(passed)
    for point in passed:
        folder = tmp_path / point
        died = live(folder, point, "1", names=names)
        assert died.returncode == -9, f"{point}: {died.returncode} {died.stderr}"
        await check(folder, point, names)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["layers.made", "layers.renamed", "mounts.mounted"])
async def test_killed_while_a_deep_stack_is_merged(point: str, tmp_path: Path) -> None:
    deep = [[SHARED], *([file(b"d/one", b"%d" % number)] for number in range(33))]
    write_layout(image_of(deep), tmp_path / "layout-one")
    write_layout(TWO, tmp_path / "layout-two")
    number = "1" if point == "mounts.mounted" else str(len(deep) + 1)
    died = live(tmp_path / "store", point, number)
    assert died.returncode == -9, died.stderr
    await check(tmp_path / "store", point)
