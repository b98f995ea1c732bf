"""Limits as a container meets them, and the words a person gets (attacks R-23, R-34; GAP-4, GAP-9)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fixtures.containers import Box, Yard
from mesocosm.errors import Busy
from mesocosm.isolators.cgroups.witness import Witness
from mesocosm.model import Resources, TmpfsMount

MEBIBYTE = 1 << 20


@pytest.fixture
async def yard(tmp_path: Path, busybox_root: Path, cgroup_root: str) -> AsyncIterator[Yard]:
    async with Yard.open(tmp_path, busybox_root, cgroup_root) as made:
        yield made


def memory(amount: int) -> Resources:
    """A limit in MiB without swap."""
    return Resources(memory=amount * MEBIBYTE, memory_swap=amount * MEBIBYTE)


def victims(yard: Yard) -> str:
    """Who goes when one process of a container wants too much: v2 can take it as a whole."""
    return "the whole container" if yard.host.cgroups.version("memory") == 2 else "1 process"


def tells_most(box: Box) -> bool:
    """Whether the kernel keeps the highest memory use, as cgroup v2 does from Linux 5.19 on."""
    group = box.host.cgroups.of(str(box.id), "memory")
    return any(group.has(name) for name in ("memory.peak", "memory.max_usage_in_bytes"))


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_memory_hog_is_stopped_and_named_gap_9(yard: Yard) -> None:
    box = await yard.box("sh", "/payload/eat-memory.sh", "200", resources=memory(64))
    watching = asyncio.ensure_future(box.limitation())
    await box.start()
    found = await watching
    ended = await box.wait()
    assert ended.status == 137 and "ate" not in box.output()
    assert (found.resource, found.requested) == ("memory", 64 * MEBIBYTE)
    told = tells_most(box)
    assert 60 * MEBIBYTE <= found.peak <= 64 * MEBIBYTE if found.peak is not None else not told
    most = " (most used: 64 MiB)" if told else ""
    assert found.message.startswith(
        f"memory: the limit of 64 MiB was reached{most}; the kernel killed {victims(yard)}"
    )


async def test_the_largest_process_is_seen_on_the_way_up_gap_9(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held at part of its limit until it was seen, the hog is then let go."""
    seen = asyncio.Event()
    look = Witness.look

    def looked(self: Witness) -> None:
        look(self)
        seen.set()

    monkeypatch.setattr(Witness, "look", looked)
    reader, writer = os.pipe()
    script = "a=$(head -c 40m /dev/zero | tr '\\0' x); read go; b=$a$a$a; echo $b | wc -c"
    box = await yard.box("sh", "-c", script, resources=memory(64), stdin=reader)
    os.close(reader)
    isolator = box.isolator("cgroups/mem")
    watching = asyncio.ensure_future(isolator.watch(box.id))
    await box.start()
    await seen.wait()
    os.write(writer, b"go\n")
    os.close(writer)
    found = await watching
    await box.wait()
    assert "the largest was sh (process " in found.message
    again = await isolator.reached(box.id)
    assert again == found


async def test_a_kill_while_nobody_watched_is_reported_later_gap_9(yard: Yard) -> None:
    box = await yard.box("sh", "/payload/eat-memory.sh", "200", resources=memory(64))
    await box.run()
    found = await box.isolator("cgroups/mem").reached(box.id)
    assert found is not None and found.requested == 64 * MEBIBYTE
    assert f"the kernel killed {victims(yard)}" in found.message
    assert await asyncio.wait_for(box.limitation(), 30) == found


async def test_within_its_limit_nothing_is_reported(yard: Yard) -> None:
    box = await yard.box("sh", "/payload/eat-memory.sh", "20", resources=memory(64))
    assert await box.run() == "ate 20 MiB\n"
    assert await box.isolator("cgroups/mem").reached(box.id) is None
    usage = await box.usage()
    assert usage.oom_kills == 0 and usage.memory_limit == 64 * MEBIBYTE
    assert usage.memory_peak > 20 * MEBIBYTE if usage.memory_peak is not None else not tells_most(box)


@pytest.mark.parametrize("place", ["/dev/shm", "/data"])
async def test_memory_file_systems_count_r_34(place: str, yard: Yard) -> None:
    box = await yard.box(
        "sh",
        "-c",
        f"dd if=/dev/zero of={place}/file bs=1M count=200",
        resources=memory(64),
        mounts=(TmpfsMount(target="/data"),),
        shm_size=512 * MEBIBYTE,
    )
    await box.start()
    assert (await box.wait()).status == 137
    assert await box.isolator("cgroups/mem").reached(box.id) is not None


async def test_dev_shm_has_the_size_asked_for(yard: Yard) -> None:
    box = await yard.box("dd", "if=/dev/zero", "of=/dev/shm/file", "bs=1M", "count=8", shm_size=MEBIBYTE)
    assert "No space left on device" in await box.run()


async def holding(yard: Yard, amount: int, limit: int) -> tuple[Box, int]:
    """A container that holds so many MiB until its standard input, the descriptor returned, is closed."""
    reader, writer = os.pipe()
    script = f"a=$(head -c {amount}m /dev/zero | tr '\\0' x); echo holding; read _; echo ${{#a}}"
    box = await yard.box("sh", "-c", script, resources=memory(limit), stdin=reader)
    os.close(reader)
    await box.start()
    await box.until("holding")
    return box, writer


async def test_a_limit_below_what_is_used_is_refused_and_kills_nothing_gap_4(yard: Yard) -> None:
    box, writer = await holding(yard, 40, 128)
    isolator = box.isolator("cgroups/mem")
    with pytest.raises(Busy, match="the memory limit cannot become 16 MiB"):
        await isolator.update(box.id, memory(16))
    assert (await isolator.usage(box.id)).memory_limit == 128 * MEBIBYTE
    os.close(writer)
    assert (await box.wait()).status == 0
    assert str(40 * MEBIBYTE) in box.output()


async def test_a_limit_above_what_is_used_can_be_lowered_gap_4(yard: Yard) -> None:
    box, writer = await holding(yard, 20, 200)
    isolator = box.isolator("cgroups/mem")
    for amount in (100, 150, 90):
        await isolator.update(box.id, memory(amount))
        assert (await isolator.usage(box.id)).memory_limit == amount * MEBIBYTE
    await isolator.update(box.id, Resources())
    assert (await isolator.usage(box.id)).memory_limit is None
    os.close(writer)
    assert (await box.wait()).status == 0


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_fork_bomb_is_held_and_told_in_words_r_34(yard: Yard) -> None:
    bomb = "f() { f | f & }; i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done"
    box = await yard.box("sh", "-c", bomb, resources=Resources(pids=20, memory=256 * MEBIBYTE))
    await box.run()
    usage = await box.usage()
    assert usage.pids_limit == 20 and usage.pids_refused
    assert usage.pids_peak is None or usage.pids_peak <= 20
    found = (await box.status())["processes"]
    assert found.startswith("the limit of 20 refused a new process ")


async def test_within_the_limit_processes_start(yard: Yard) -> None:
    box = await yard.box("sh", "/payload/fork.sh", "8", resources=Resources(pids=20))
    assert await box.run() == "forked 8\n"
    assert (await box.usage()).pids_refused == 0
    assert await box.status() == {}


# ── processor time ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_cpu_burner_is_held_back_not_killed(yard: Yard) -> None:
    burner = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo burnt"
    box = await yard.box("sh", "-c", burner, resources=Resources(cpus=0.1))
    assert await box.run() == "burnt\n"
    usage = await box.usage()
    assert usage.cpu_limit == pytest.approx(0.1)
    assert usage.cpu_throttled_periods and usage.cpu_throttled_seconds
    assert usage.cpu_seconds is not None and usage.cpu_seconds > 0.1


async def test_its_limit_can_be_lifted_while_it_burns(yard: Yard) -> None:
    box = await yard.box("sh", "/payload/burn-cpu.sh", resources=Resources(cpus=0.05, cpu_shares=2))
    await box.start()
    await box.until("burning")
    await box.update(cpus=2.0, cpu_shares=512)
    usage = await box.usage()
    assert usage.cpu_limit == 2.0 and usage.cpu_shares == pytest.approx(512, rel=0.02)
    await box.update()
    assert (await box.usage()).cpu_limit is None


async def test_a_further_process_is_under_the_same_limits_r_23(yard: Yard) -> None:
    box, writer = await holding(yard, 1, 64)
    try:
        status, _ = await box.execute("sh", "/payload/eat-memory.sh", "200")
    finally:
        os.close(writer)
    assert status == 137
    await box.wait()
    assert (await box.usage()).oom_kills
