"""Collection by itself, between two water marks that the settings say (GAP-24; Q-18)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kernel.test_full_disk import MIB, layout, small_disk
from kernel.test_water_marks import used
from mesocosm import durable, trace
from mesocosm.errors import InvalidConfig
from mesocosm.images.automatic import load
from mesocosm.images.collect import Limits
from mesocosm.images.leases import Leases
from mesocosm.images.progress import Phase, Progress
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.water_marks import between
from provisions import new_id, paths_of

DAY = 24 * 3600.0


@asynccontextmanager
async def settled(folder: Path, text: str, told: list[Progress] | None = None) -> AsyncIterator[Provisioner]:
    """A provisioner with these settings; what it tells of collection goes to ``told``."""
    settings = folder / "images.toml"
    settings.write_text(text)

    def report(one: Progress) -> None:
        if told is not None and one.phase is Phase.COLLECT:
            told.append(one)

    async with Provisioner.open(paths_of(folder), settings=settings, progress=report) as provisioner:
        try:
            yield provisioner
        finally:
            await provisioner.automatic.settle()
            for owner in provisioner.store.leases.owners("container-"):
                provisioner.store.leases.drop(owner)


async def pulled(provisioner: Provisioner, names: list[str]) -> list[str]:
    """The images, used in this order long ago; no collection is under way that could read later settings."""
    digests = [(await provisioner.pull(name)).digest for name in names]
    await provisioner.automatic.settle()
    for age, digest in enumerate(digests):
        provisioner.store.catalogue.used(digest, 1_000_000.0 + age)
    return digests


async def test_a_pull_above_the_mark_collects_down_to_the_other(tmp_path: Path) -> None:
    names = [layout(tmp_path / f"layout-{number}", 2 * MIB) for number in range(5)]
    last = layout(tmp_path / "layout-last", 2 * MIB)
    told: list[Progress] = []
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        async with settled(disk, 'collect-above = "25%"\ncollect-down-to = "20%"', told) as provisioner:
            (disk / "images.toml").write_text('collect-above = "99%"')
            digests = await pulled(provisioner, names)
            assert told == [] and used(disk) > 0.25
            (disk / "images.toml").write_text('collect-above = "25%"\ncollect-down-to = "20%"')
            await provisioner.provision(new_id(), names[0], pull="never", scratch=disk / "s")
            provisioner.store.catalogue.used(digests[0], 1.0)
            await provisioner.pin(digests[1])
            plan = provisioner.automatic.plan()
            assert plan.images[0] == digests[2] or digests[2] in plan.images
            fresh = (await provisioner.pull(last)).digest
            await provisioner.automatic.settle()
            left = {image.digest for image in await provisioner.images()}
            assert {digests[0], digests[1], fresh} <= left and digests[2] not in left
            assert used(disk) <= 0.2 or left == {digests[0], digests[1], fresh}
            assert (
                told[0].subject.startswith("oci:") and "more than 25% of the disk in use" in told[0].subject
            )
            assert len(told) == 6 - len(left)
            again = provisioner.automatic.collect(wait=True)
            assert again.empty


async def test_young_images_stay_and_old_ones_go(tmp_path: Path) -> None:
    names = [layout(tmp_path / f"layout-{number}", 4096) for number in range(3)]
    async with settled(tmp_path, "") as provisioner:
        digests = await pulled(provisioner, names)
        provisioner.store.catalogue.used(digests[1], 4_000_000_000.0)
        (tmp_path / "images.toml").write_text('collect-above = "0%"')
        assert set(provisioner.automatic.plan().images) == {digests[0], digests[2]}
        (tmp_path / "images.toml").write_text('collect-older = "720h"')
        plan = provisioner.automatic.plan()
        assert {reason.why for reason in plan.reasons} and len(plan.reasons) == 2
        await provisioner.pull(names[1])
        await provisioner.automatic.settle()
        assert [image.digest for image in await provisioner.images()] == [digests[1]]


async def test_amounts_are_marks_too(tmp_path: Path) -> None:
    names = [layout(tmp_path / f"layout-{number}", MIB) for number in range(4)]
    async with settled(tmp_path, "") as provisioner:
        digests = await pulled(provisioner, names)
        for above, gone in (("20m", 0), ("3m", 3)):
            (tmp_path / "images.toml").write_text(f'collect-above = "{above}"\ncollect-down-to = "2500k"')
            assert len((await provisioner.prune_by_settings(dry_run=True)).images) == gone
        plan = await provisioner.prune_by_settings()
        assert plan.images == tuple(digests[:3])


async def test_one_process_collects_at_a_time_and_launches_do_not_wait(tmp_path: Path) -> None:
    names = [layout(tmp_path / f"layout-{number}", 4096) for number in range(3)]
    async with settled(tmp_path, "") as provisioner:
        await pulled(provisioner, names)
        (tmp_path / "images.toml").write_text('collect-older = "1h"')
        with durable.locked(provisioner.store.root / "collecting") as held:
            assert held and provisioner.automatic.collect(wait=False).empty
        between_two, go_on = threading.Event(), threading.Event()

        def observe(point: str) -> None:
            if point == "collect.step":
                between_two.set()
                go_on.wait(30)

        trace.observe(observe)
        try:
            collecting = asyncio.create_task(asyncio.to_thread(provisioner.automatic.collect, wait=False))
            await asyncio.to_thread(between_two.wait, 30)
            with pytest.raises(Exception, match="not on this host"):
                await provisioner.provision(new_id(), names[0], pull="never", scratch=tmp_path / "s")
            await provisioner.provision(new_id(), names[2], scratch=tmp_path / "t")
            go_on.set()
            plan = await collecting
        finally:
            go_on.set()
            trace.observe(None)
        assert len(plan.images) == 2
        assert [image.references for image in await provisioner.images()] == [(names[2],)]


def churn(times: int = 15) -> None:
    """Pull and provision over and over in a process of its own; every layer seen has to stay."""

    folder, name = Path(sys.argv[1]), sys.argv[2]

    async def live() -> None:
        async with Provisioner.open(paths_of(folder), settings=folder / "images.toml") as provisioner:
            for _ in range(times):
                container = new_id()
                await provisioner.provision(container, name, scratch=folder / str(container))
                [image] = [one for one in await provisioner.images() if str(container) in one.in_use]
                assert image.complete
                await provisioner.release(container)

    asyncio.run(live())


def test_q18_two_processes_that_collect_all_the_time(tmp_path: Path) -> None:
    names = [layout(tmp_path / f"layout-{number}", 4096) for number in range(2)]
    paths_of(tmp_path)
    (tmp_path / "images.toml").write_text('collect-above = "0%"\ncollect-spare = "0s"')
    words = [sys.executable, "-c", f"from {__name__} import churn; churn()", str(tmp_path)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen([*words, name], env=environment, stderr=subprocess.PIPE, text=True) for name in names
    ]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    leases = Leases(tmp_path / "state/images")
    assert leases.owners() == []


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", None),
        ('collect-spare = "2h"', None),
        ('collect-above = "85%"', Limits(high=0.85, low=0.8, spare=3600.0)),
        ('collect-above = "50%"\ncollect-down-to = "40%"', Limits(high=0.5, low=0.4, spare=3600.0)),
        ('collect-above = "1k"\ncollect-spare = "0"', Limits(ceiling=1024, budget=921)),
        ('collect-older = "24h"', Limits(age=DAY, spare=3600.0)),
    ],
)
def test_settings(text: str, limits: Limits | None, tmp_path: Path) -> None:
    (tmp_path / "images.toml").write_text(text)
    assert load(tmp_path / "images.toml") == limits
    assert load(tmp_path / "none.toml") is None


@pytest.mark.parametrize(
    "text",
    [
        'collect-above = "101%"',
        'collect-above = "1%"\ncollect-down-to = "2%"',
        'collect-above = "1g"\ncollect-down-to = "2g"',
        'collect-above = "1g"\ncollect-down-to = "2%"',
        'collect-above = "1%"\ncollect-down-to = "2g"',
        'collect-down-to = "1%"',
        'collect-older = "never"',
        'collect-abov = "1%"',
        "collect-above = 85",
        "collect-above",
        "\0",
    ],
)
async def test_settings_that_make_no_sense_are_told_and_fail_no_pull(text: str, tmp_path: Path) -> None:
    told: list[Progress] = []
    async with settled(tmp_path, text, told) as provisioner:
        with pytest.raises(InvalidConfig, match="images.toml"):
            provisioner.automatic.plan()
        assert (await provisioner.pull(layout(tmp_path / "layout", 10))).complete
        await provisioner.automatic.settle()
    assert len(told) == 1 and "images.toml" in told[0].subject


def test_marks_of_the_command_line() -> None:
    assert between(None, None, "a", "b") is None
    assert between("85%", None, "a", "b") == Limits(high=0.85, low=0.8)
    assert between("70", "60", "a", "b") == Limits(high=0.7, low=0.6)


async def test_an_unknown_setting_is_told_the_known_ones(tmp_path: Path) -> None:
    async with settled(tmp_path, 'collect-abov = "1%"', []) as provisioner:
        known = "known are collect-above, collect-down-to, collect-older, collect-spare"
        with pytest.raises(InvalidConfig) as caught:
            provisioner.automatic.plan()
        assert caught.value.hint == known
