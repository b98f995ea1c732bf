"""What an idle container costs in memory: the one process that watches over it."""

from __future__ import annotations

import asyncio
import signal
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from bench.measure import OURS, Measured, Series
from bench.ours import Ours
from bench.peers import Peers

CONTAINERS = 20
SLEEP = ("/bin/sleep", "3600")


class Pages(NamedTuple):
    """KiB of one process: its fair share of shared pages and its own, and its own alone."""

    pss: float
    private: float


async def run(ours: Ours | None, peers: Peers, *, rounds: int) -> list[Measured]:
    """PSS and private pages for each of ``CONTAINERS`` that run at once; ``rounds`` does not matter."""
    sizes: dict[str, list[Pages]] = {}
    if ours:
        async with ours.idle(CONTAINERS) as pids:
            sizes[OURS] = [pages(pid) for pid in pids]
    async with conmons(peers, CONTAINERS) as pids:
        sizes["conmon"] = [pages(pid) for pid in pids]
    return [
        Measured(
            f"memory per idle container, {what}",
            "KiB",
            tuple(Series(who, tuple(getattr(one, field) for one in found)) for who, found in sizes.items()),
        )
        for what, field in (("PSS", "pss"), ("private", "private"))
    ]


def pages(pid: int) -> Pages:
    """Read smaps_rollup (proc_pid_smaps(5))."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0])
    return Pages(found["Pss"], found["Private_Clean"] + found["Private_Dirty"])


@asynccontextmanager
async def conmons(peers: Peers, count: int) -> AsyncIterator[list[int]]:
    """``count`` sleeping containers of crun, each under a conmon; the process IDs of the conmons."""
    names = [f"idle-{number}" for number in range(count)]
    started: list[str] = []
    try:
        for name in names:
            started.append(name)
            await peers.run(peers.conmon(name, SLEEP))
        pids = [int(peers.conmon_pid(name).read_text()) for name in names]
        if statistics.fmean(pages(pid).pss for pid in pids) <= 0:
            raise RuntimeError("conmon's memory cannot be read")
        yield pids
    finally:
        for name in started:
            await peers.run(peers.delete(name))
        await asyncio.gather(*(_gone(peers.conmon_pid(name)) for name in started))


async def _gone(pidfile: Path) -> None:
    """Wait until conmon has noticed that its container is gone."""
    import os

    try:
        fd = os.pidfd_open(int(pidfile.read_text()))
    except (ProcessLookupError, FileNotFoundError):
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ended.set)
    try:
        async with asyncio.timeout(10):
            await ended.wait()
    except TimeoutError:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        loop.remove_reader(fd)
        os.close(fd)
