"""Collection between two water marks of the file system: it begins at one and ends at the other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from attacks.commandline import CommandLine
from kernel.test_full_disk import MIB, layout, small_disk
from mesocosm.images.collect import Limits
from provisions import image_of, new_id, opened
from registry_fixtures import write_layout
from tarballs import file


def used(disk: Path) -> float:
    """The share of a file system that is in use."""
    found = os.statvfs(disk)
    return 1 - found.f_bavail / found.f_blocks


async def test_it_begins_at_the_high_mark_and_ends_at_the_low_one(tmp_path: Path) -> None:
    names = [layout(tmp_path / f"layout-{number}", 2 * MIB) for number in range(5)]
    with small_disk(tmp_path / "disk", 32 * MIB) as disk:
        async with opened(disk) as provisioner:
            digests = [(await provisioner.pull(name)).digest for name in names]
            for age, digest in enumerate(digests):
                provisioner.store.catalogue.used(digest, 1_000_000.0 + age)
            await provisioner.provision(new_id(), names[0], scratch=disk / "s")
            provisioner.store.catalogue.used(digests[0], 1.0)
            full = used(disk)
            assert full > 0.6
            assert (await provisioner.prune(Limits(high=0.99, low=0.1))).empty
            plan = await provisioner.prune(Limits(high=0.6, low=0.4), dry_run=True)
            assert used(disk) == pytest.approx(full, abs=0.01)  # a plan is only shown
            gone = await provisioner.prune(Limits(high=0.6, low=0.4))
            assert gone == plan
            assert 0.2 < used(disk) <= 0.4
            assert digests[0] not in gone.images  # unused for longest, but a container holds it
            assert set(gone.images) == set(digests[1 : 1 + len(gone.images)])
            assert (await provisioner.prune(Limits(high=0.6, low=0.4))).empty


async def test_who_is_in_the_way_is_told_and_nobody_else(tmp_path: Path) -> None:
    """Held images that are too old, and all of them while what goes is not enough."""
    names = [layout(tmp_path / f"layout-{number}", MIB) for number in range(3)]
    async with opened(tmp_path) as provisioner:
        old, young, free = [(await provisioner.pull(name)).digest for name in names]
        await provisioner.pin(old)
        container = new_id()
        await provisioner.provision(container, names[1], scratch=tmp_path / "s")
        provisioner.store.catalogue.used(old, 1_000_000.0)

        async def told(limits: Limits) -> dict[str, tuple[str, ...]]:
            plan = await provisioner.prune(limits, dry_run=True)
            return {held.image: held.owners for held in plan.held}

        owners = {old: (f"pin-{old.removeprefix('sha256:')}",), young: (f"container-{container}",)}
        usage = await provisioner.usage()
        in_all = usage.layers + usage.blobs
        assert await told(Limits(age=3600.0)) == {old: owners[old]}
        assert await told(Limits(budget=in_all - 1)) == {}
        assert (await provisioner.prune(Limits(budget=in_all - 1), dry_run=True)).images == (free,)
        assert await told(Limits(budget=0)) == owners
        assert await told(Limits(age=0.0)) == owners


def test_by_the_command_line(tmp_path: Path) -> None:
    line = CommandLine(tmp_path)
    name = f"oci:{write_layout(image_of([[file(b'a', b'1')]]), tmp_path / 'layout')}"
    digest = line("pull", "-q", name).accepted().strip()
    assert line("image", "prune", "-f", "--above", "100%").accepted() == ""
    plan = line("image", "prune", "-n", "--above", "0%", "--down-to", "0%", "--format", "json").accepted()
    assert json.loads(plan)["images"] == [digest]
    assert line("image", "prune", "-f", "--above", "0%", "--down-to", "0").accepted().strip() == digest
    assert line("image", "prune", "-f", "--above", "1g").accepted() == ""
    shown = line("image", "prune", "-n", "--auto")
    assert shown.accepted() == "" and "nothing to remove" in shown.err
    for words in (
        ("--above", "101%"),
        ("--above", "x"),
        ("--down-to", "10%"),
        ("--above", "5", "--down-to", "9"),
        ("--above", "5g", "--down-to", "9g"),
        ("--above", "5g", "--down-to", "9%"),
        ("--above", "5g", "--budget", "9g"),
        ("--above", "5g", "--auto"),
    ):
        line("image", "prune", "-f", *words).refused("above|down-to|auto")
