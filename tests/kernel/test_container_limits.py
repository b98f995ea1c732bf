"""Limits of whole containers, on whichever cgroup layout this machine has: hybrid, pure v1, pure v2.

Through the containerizer, with the default isolation.  tests/emulated runs this file again on the layouts
that this machine has not.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fixtures import leaks
from fixtures.images import Layout
from fixtures.view import View
from mesocosm import ContainerConfig, Containerizer
from mesocosm.errors import Busy, InvalidConfig
from mesocosm.linux import processes, syscalls
from mesocosm.linux.cgroups import Cgroup
from mesocosm.model import ContainerID, Resources, Termination

MEBIBYTE = 1 << 20
FOR_EVER = ("sleep", "100000")


class Yard:
    """Containers on one root file system."""

    def __init__(self, containers: Containerizer, image: str) -> None:
        self.containers = containers
        self.image = image

    async def begin(self, *command: str, **config: Any) -> ContainerID:
        """A started container."""
        config.setdefault("image", self.image)
        container = await self.containers.create(ContainerConfig(command=command, **config))
        await self.containers.start(container)
        return container

    async def run(self, *command: str, **config: Any) -> tuple[Termination, str]:
        """How it ended, and what it printed."""
        container = await self.begin(*command, **config)
        ending = await self.containers.wait(container)
        said = b"".join([chunk.data async for chunk in self.containers.logs(container)])
        return ending, said.decode()

    def group(self, container: ContainerID, controller: str) -> Cgroup:
        """Its cgroup."""
        return self.containers.host.cgroups.of(str(container), controller)

    def pids(self, container: ContainerID) -> list[int]:
        """The processes in any of its cgroups."""
        return list(self.containers.host.cgroups.pids(str(container)))


@pytest.fixture
async def yard(tmp_path: Path, busybox_root: Path) -> AsyncIterator[Yard]:
    """A containerizer of this test's own; every container is removed at the end."""
    async with Containerizer.open(root=tmp_path / "state", runtime=tmp_path / "run") as containers:
        yield Yard(containers, f"dir:{busybox_root}")
        for report in containers.list():
            await containers.remove(ContainerID.parse(report.id), force=True)


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_memory_limit_ends_the_container_and_says_so(yard: Yard) -> None:
    """IF-6, GAP-9: a limitation with amounts, in words; the last usage is kept."""
    ending, said = await yard.run(
        "sh", "-c", "/payload/eat-memory.sh 3; sleep 100000 & /payload/eat-memory.sh 64; exec sleep 100000",
        resources=Resources(memory=16 * MEBIBYTE),
    )  # fmt: skip
    assert said == "ate 3 MiB\n"
    assert ending.reason == "limited"
    assert ending.limitation is not None
    assert (ending.limitation.resource, ending.limitation.requested) == ("memory", 16 * MEBIBYTE)
    assert ending.message == ending.limitation.message
    assert "the limit of 16 MiB was reached" in ending.message
    assert "the kernel killed" in ending.message
    assert ending.usage is not None
    assert ending.usage.oom_kills is not None
    assert ending.usage.oom_kills >= 1
    assert ending.usage.memory_limit == 16 * MEBIBYTE


async def test_on_v2_all_processes_of_a_container_go_together(yard: Yard) -> None:
    """memory.oom.group: one victim would leave half a container behind; v1 has no such thing."""
    container = await yard.begin(*FOR_EVER, resources=Resources(memory=16 * MEBIBYTE))
    group = yard.group(container, "memory")
    assert group.has("memory.oom.group") == (group.version == 2)
    if group.version == 2:
        assert group.read_int("memory.oom.group") == 1


# --- processes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_r34_a_fork_bomb_is_held_at_the_limit_and_ended(yard: Yard) -> None:
    """R-34: the bomb never exceeds its limit, and destroy ends all of it."""
    bomb = "bomb() { bomb | bomb & }; (trap '' TERM INT HUP; while :; do bomb; done) & exec sleep 100000"
    container = await yard.begin("sh", "-c", bomb, resources=Resources(pids=24))
    group = yard.group(container, "pids")
    await group.wait("pids.events", "max")
    assert group.read_int("pids.current") <= 24
    usage = await yard.containers.usage(container)
    assert usage.pids_limit == 24
    assert usage.pids_refused is not None
    assert usage.pids_refused >= 1
    status = await yard.containers.status(container)
    assert "the limit of 24 refused" in status.isolators["cgroups/pids"]["processes"]
    ending = await yard.containers.destroy(container)
    assert ending.reason == "asked"
    assert yard.pids(container) == []


async def test_processes_below_the_limit_are_not_refused(yard: Yard) -> None:
    """R-34, benign twin."""
    ending, said = await yard.run("/payload/fork.sh", "5", resources=Resources(pids=24))
    assert (ending.status, said) == (0, "forked 5\n")
    assert ending.usage is not None
    assert ending.usage.pids_refused == 0


# --- processor time -----------------------------------------------------------------------------------------

_WORK = "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done"
_COUNTERS = "/sys/fs/cgroup/cpu.stat /sys/fs/cgroup/cpu/cpu.stat"
_UNTIL_HELD_BACK = f"until grep -qs 'nr_throttled [1-9]' {_COUNTERS}; do {_WORK}; done"


@pytest.mark.slow
async def test_a_processor_limit_throttles(yard: Yard) -> None:
    """CG2-1: held back in some periods, and time is counted."""
    limited, _ = await yard.run("sh", "-c", _UNTIL_HELD_BACK, resources=Resources(cpus=0.05))
    free, _ = await yard.run("sh", "-c", _WORK)
    assert limited.status == free.status == 0
    assert limited.usage is not None
    assert free.usage is not None
    assert limited.usage.cpu_limit == pytest.approx(0.05)
    assert limited.usage.cpu_throttled_periods is not None
    assert limited.usage.cpu_throttled_periods > 0
    assert limited.usage.cpu_seconds is not None
    assert limited.usage.cpu_seconds > 0
    assert free.usage.cpu_limit is None
    assert not free.usage.cpu_throttled_periods


# --- devices ------------------------------------------------------------------------------------------------


async def test_r24_a_disk_may_be_named_and_not_opened(yard: Yard) -> None:
    """R-24: nodes of the host's block devices, of memory, of kernel messages and of the host's console open
    nothing; null and zero do.
    """
    numbers = sorted({_number(path) for path in Path("/sys/class/block").iterdir()} | {"1:0", "8:0"})
    attempts = [("b", number) for number in numbers[:6]] + [
        ("c", number) for number in ("1:1", "1:4", "1:11", "5:1")
    ]
    script = ["cd /tmp", "head -c 1 /dev/zero >/dev/null && echo zero works"]
    for index, (kind, number) in enumerate(attempts):
        major, minor = number.split(":")
        script.append(f"mknod node-{index} {kind} {major} {minor} && head -c 1 node-{index} && echo OPENED")
    ending, said = await yard.run("sh", "-c", "\n".join(script))
    lines = said.splitlines()
    assert lines.count("zero works") == 1
    assert "OPENED" not in said
    assert sum("Operation not permitted" in line for line in lines) == len(attempts)


def _number(device: Path) -> str:
    return (device / "dev").read_text().strip()


# --- changing limits ----------------------------------------------------------------------------------------


async def test_limits_change_up_and_down_while_it_runs(yard: Yard) -> None:
    """GAP-4: every limit, both ways, and none at all."""
    container = await yard.begin(*FOR_EVER, resources=Resources(memory=64 * MEBIBYTE, cpus=0.5, pids=16))

    async def now() -> tuple[int | None, float | None, int | None]:
        usage = await yard.containers.usage(container)
        return usage.memory_limit, usage.cpu_limit, usage.pids_limit

    assert await now() == (64 * MEBIBYTE, 0.5, 16)
    for memory, cpus, pids in ((128, 1.5, 64), (32, 0.25, 8), (256, 2.0, 512)):
        await yard.containers.update(container, Resources(memory=memory * MEBIBYTE, cpus=cpus, pids=pids))
        assert await now() == (memory * MEBIBYTE, cpus, pids)
    await yard.containers.update(container, Resources())
    assert await now() == (None, None, None)


async def test_a_limit_that_no_isolator_holds_is_refused_from_python_too(yard: Yard) -> None:
    """GAP-4: a limit that is taken and not enforced would be worse than a refusal."""
    container = await yard.begin(*FOR_EVER, isolation=("cgroups/mem",))
    with pytest.raises(InvalidConfig, match="cgroups/pids"):
        await yard.containers.update(container, Resources(memory=64 * MEBIBYTE, pids=16))
    await yard.containers.update(container, Resources(memory=64 * MEBIBYTE))
    assert (await yard.containers.usage(container)).memory_limit == 64 * MEBIBYTE


async def test_a_limit_below_what_is_in_use_is_refused_and_kills_nobody(yard: Yard) -> None:
    """GAP-4: memory that cannot be given up, here on a tmpfs."""
    before = Resources(memory=64 * MEBIBYTE, pids=16)
    script = "head -c 24000000 /dev/zero >/dev/shm/kept && echo kept && exec sleep 100000"
    container = await yard.begin("sh", "-c", script, resources=before)
    async for chunk in yard.containers.logs(container, follow=True):
        assert chunk.data == b"kept\n"
        break
    with pytest.raises(Busy, match="8 MiB"):
        await yard.containers.update(container, Resources(memory=8 * MEBIBYTE, pids=8))
    usage = await yard.containers.usage(container)
    assert (usage.memory_limit, usage.pids_limit) == (64 * MEBIBYTE, 16)
    assert usage.oom_kills == 0
    assert usage.memory is not None
    assert usage.memory > 24_000_000


# --- being in it --------------------------------------------------------------------------------------------


async def test_a_further_process_is_in_the_same_cgroups(yard: Yard) -> None:
    """The one way in: run and exec are in the same cgroups, seen from outside."""
    container = await yard.begin(*FOR_EVER)
    session = await yard.containers.execute(container, FOR_EVER)
    first, *_ = (pid for pid in yard.pids(container) if pid != session.pid)
    theirs = Path(f"/proc/{session.pid}/cgroup").read_text()
    assert theirs == Path(f"/proc/{first}/cgroup").read_text()
    assert yard.containers.host.cgroups.parent in theirs
    assert await session.signal(9)
    await session.wait()
    await session.close()


async def test_r25_the_view_inside_is_its_own_and_read_only(yard: Yard) -> None:
    """R-25, CG-4: its own limits show where programs look for them, and cannot be changed."""
    ending, said = await yard.run("/payload/report.sh", resources=Resources(memory=64 * MEBIBYTE))
    assert ending.status == 0
    view = View(said.encode())
    assert set(view.cgroups.values()) <= {"/"} | _own_cgroups()
    v2 = yard.containers.host.cgroups.version("memory") == 2
    place = "/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory"
    file = "memory.max" if v2 else "memory.limit_in_bytes"
    assert "ro" in view.mount(place).options
    script = f"cat {place}/{file}; echo 1 >{place}/{file} || echo $$ >{place}/cgroup.procs"
    ending, said = await yard.run("sh", "-c", script, resources=Resources(memory=64 * MEBIBYTE))
    assert ending.status != 0
    assert str(64 * MEBIBYTE) in said.splitlines()  # the two streams may come in either order
    assert said.count("Read-only file system") == 2


def _own_cgroups() -> set[str]:
    """Of hierarchies that no isolator uses a container sees the place of whoever launched it."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return {line.split(":", 2)[2] for line in lines}


# --- ending -------------------------------------------------------------------------------------------------


async def test_destroy_reaches_every_process_however_it_hides(yard: Yard) -> None:
    """DES-6: sessions of their own, deaf to signals, orphaned: all of them are gone, and so are the
    cgroups.
    """
    hidden = (
        "trap '' TERM INT HUP; (setsid sleep 100000 &) ; setsid sh -c 'sleep 100000 & exec sleep 100000' &"
    )
    container = await yard.begin("sh", "-c", f"{hidden} echo in; exec sleep 100000", init=True)
    async for chunk in yard.containers.logs(container, follow=True):
        assert chunk.data == b"in\n"
        break
    held = [syscalls.pidfd_open(pid) for pid in yard.pids(container)]
    try:
        assert len(held) >= 3
        await yard.containers.destroy(container)
        assert all(processes.has_ended(fd) for fd in held)
    finally:
        for fd in held:
            os.close(fd)
    assert not yard.containers.host.cgroups.exists(str(container))


async def test_nothing_is_left_of_a_removed_container(yard: Yard, tmp_path: Path) -> None:
    """DES-9: no cgroup, no mount, no directory."""
    container = await yard.begin(*FOR_EVER, resources=Resources(memory=64 * MEBIBYTE, cpus=1.0, pids=9))
    parent = yard.containers.host.cgroups.parent
    assert any(f"/{parent}/" in path for path in leaks.cgroup_directories())
    await yard.containers.remove(container, force=True)
    assert not any(f"/{parent}/" in path for path in leaks.cgroup_directories())
    assert list((tmp_path / "state/containers").iterdir()) == []
    assert list((tmp_path / "run/containers").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


# --- roots --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [None, "overlay", "copy"])
async def test_an_image_of_layers_starts(yard: Yard, busybox_oci: Layout, backend: str | None) -> None:
    """Pulled, unpacked and mounted as this kernel can; writable, and the image stays as it was."""
    script = "cat /etc/os-release && id -u && echo new >/tmp/new && cat /tmp/new"
    for _ in range(2):
        ending, said = await yard.run(
            "-c", script, image=f"oci:{busybox_oci.path}:{busybox_oci.tag}", backend=backend
        )
        assert ending.status == 0, said
        assert 'NAME="mesocosm test root"' in said
        assert said.endswith("1000\nnew\n")


async def test_the_hosts_own_root_starts(yard: Yard) -> None:
    """Copy-on-write over all of it."""
    script = "echo new >/etc/mesocosm-new && cat /etc/mesocosm-new"
    ending, said = await yard.run("sh", "-c", script, image="host")
    assert (ending.status, said) == (0, "new\n")
    assert not Path("/etc/mesocosm-new").exists()
