"""Memory: a limit that the kernel enforces, and what to say when it has (parity §3.3 mem, GAP-3, 4, 9).

Swap goes docker's way: with a memory limit and no word about swap, a container may swap as much as its memory
limit.  The kernel holds all state but one: which process was the largest is gone with it, so a witness looks
while a container is watched.  A kill that nobody watched is in the kernel's counters: a new instance reports
it, without naming the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from mesocosm.errors import Busy, MesocosmError
from mesocosm.isolators.base import Container
from mesocosm.isolators.cgroups import limits
from mesocosm.isolators.cgroups.controller import Controller
from mesocosm.isolators.cgroups.witness import Process, Witness
from mesocosm.isolators.host import Host
from mesocosm.isolators.words import size
from mesocosm.linux.cgroups import Cgroup
from mesocosm.linux.cgroups.events import wait_counter
from mesocosm.model import ContainerID, Limitation, Resources, Usage
from mesocosm.plan import Contribution, WriteCgroup


class _Files(msgspec.Struct, frozen=True, kw_only=True):
    """One version's files.

    ``swap`` limits memory and swap together where ``swap_counts_memory``, else swap alone.  ``brake`` makes
    the kernel reclaim instead of kill.  ``fixed`` is written to every new group.  ``failures`` are files with
    the key under which each counts how often a limit was hit, None where the count is all there is.
    """

    limit: str
    swap: str
    swap_counts_memory: bool
    swap_probe: str
    request: str
    unlimited: str
    no_request: str
    brake: str | None
    fixed: tuple[tuple[str, str], ...]
    current: str
    peak: str
    events: str
    failures: tuple[tuple[str, str | None], ...]
    anon: str
    file: str
    kernel: str


_V1 = _Files(
    limit="memory.limit_in_bytes",
    swap="memory.memsw.limit_in_bytes",
    swap_counts_memory=True,
    swap_probe="{base}/memory.memsw.limit_in_bytes",  # there only with swapaccount=1
    request="memory.soft_limit_in_bytes",
    unlimited="-1",
    no_request="-1",
    brake=None,  # lowering the limit reclaims, and says EBUSY rather than kill
    fixed=(),
    current="memory.usage_in_bytes",
    peak="memory.max_usage_in_bytes",
    events="memory.oom_control",
    failures=(("memory.failcnt", None), ("memory.memsw.failcnt", None)),
    anon="total_rss",
    file="total_cache",
    kernel="memory.kmem.usage_in_bytes",
)
_V2 = _Files(
    limit="memory.max",
    swap="memory.swap.max",
    swap_counts_memory=False,
    swap_probe="/proc/swaps",  # there only in a kernel that can swap, as memory.swap.max is
    request="memory.low",
    unlimited="max",
    no_request="0",
    brake="memory.high",  # lowering memory.max under what is used kills; memory.high only reclaims
    fixed=(("memory.oom.group", "1"),),  # one victim would leave half a container behind
    current="memory.current",
    peak="memory.peak",  # Linux 5.19
    events="memory.events",
    failures=(("memory.events", "max"),),
    anon="anon",
    file="file",
    kernel="kernel",
)
_FILES = {1: _V1, 2: _V2}

KILLS = "oom_kill"
CHARGE = 64 * resource.getpagesize()  # the kernel charges this much at once (mm/memcontrol.c)


class Memory(Controller):
    """The memory controller."""

    name = "cgroups/mem"
    controller = "memory"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._witnesses: dict[ContainerID, Witness] = {}

    @property
    def _files(self) -> _Files:
        return _FILES[self.version]

    def prepare(self, container: Container) -> Contribution:
        """The group with its limits, in force before the first byte is allocated."""
        resources = container.config.resources
        writes = (*self._files.fixed, *self._asked(resources))
        host = (WriteCgroup(controller="memory", file=name, value=value) for name, value in writes)
        return Contribution(
            host=(*self.making(), *host),
            steps=tuple(self.joining(container)),
            warnings=self._warnings(resources),
            notes=tuple(_notes(resources)),
        )

    # ── limits ──────────────────────────────────────────────────────────────────────────────────────────

    def _asked(self, resources: Resources) -> Iterator[tuple[str, str]]:
        """What to write to a new group, where everything is unlimited: the limit first, see ``_ordered``."""
        files = self._files
        if resources.memory is not None:
            yield files.limit, str(resources.memory)
        if self._can_limit_swap and _swap_total(resources) is not None:
            yield files.swap, self._swap(resources)
        if resources.memory_request is not None:
            yield files.request, str(resources.memory_request)

    @property
    def _can_limit_swap(self) -> bool:
        serving = self.host.cgroups.layout.serving(self.controller)
        return Path(self._files.swap_probe.format(base=serving.base if serving else "")).exists()

    def _swap(self, resources: Resources) -> str:
        total = _swap_total(resources)
        if total is None:
            return self._files.unlimited
        return str(total if self._files.swap_counts_memory else total - (resources.memory or 0))

    def _warnings(self, resources: Resources) -> tuple[str, ...]:
        if resources.memory_swap is None or self._can_limit_swap:
            return ()
        return ("swap cannot be limited: this kernel does not account it (boot with swapaccount=1)",)

    async def update(self, container: ContainerID, resources: Resources) -> None:
        """Put new limits in force, higher or lower (GAP-4).

        Raises Busy when more than the new limit is in use and cannot be reclaimed; nothing is killed then.
        """
        group = self.living(container)
        with self._braked(group, resources.memory):
            limits.put(group, self._ordered(group, resources))

    def _ordered(self, group: Cgroup, resources: Resources) -> tuple[tuple[str, str], ...]:
        """v1 never lets memory be above memory and swap: on the way up the sum leads, down it follows."""
        files = self._files
        limit = (files.limit, files.unlimited if resources.memory is None else str(resources.memory))
        request = resources.memory_request
        writes = [limit]
        if self._can_limit_swap:
            before = group.read_limit(files.swap)
            value = self._swap(resources)
            rises = before is not None and (value == files.unlimited or int(value) >= before)
            writes.insert(0 if rises else 1, (files.swap, value))
        return (*writes, (files.request, files.no_request if request is None else str(request)))

    @contextlib.contextmanager
    def _braked(self, group: Cgroup, limit: int | None) -> Iterator[None]:
        """Bring usage under a lower limit by reclaiming, before the limit itself is set."""
        brake = self._files.brake
        if brake is None or limit is None or not group.has(brake):
            yield
            return
        limits.put(group, ((brake, str(limit)),))
        try:
            if group.read_int(self._files.current) > limit:
                _refuse(limit, group.read_int(self._files.current))
            yield
        finally:
            with contextlib.suppress(MesocosmError):
                limits.put(group, ((brake, self._files.unlimited),))

    # ── the end of a limit ──────────────────────────────────────────────────────────────────────────────

    async def reached(self, container: ContainerID) -> Limitation | None:
        """Whether the kernel has killed a process of the container: it counts from the group's beginning."""
        group = self.group(container)
        try:
            killed = group.read_table(self._files.events).get(KILLS, 0)
            return self._limitation(group, killed, self._largest(container)) if killed else None
        except OSError:
            return None

    async def watch(self, container: ContainerID) -> Limitation:
        """Wait until the kernel has killed a process of the container for lack of memory."""
        before = await self.reached(container)
        if before is not None:
            return before
        group = self.group(container)
        witness = self._witnesses.setdefault(container, Witness(group))
        try:
            async with witness.watching(group.read_limit(self._files.limit)):
                killed = await wait_counter(group, self._files.events, KILLS)
            return self._limitation(group, killed, witness.largest)
        except OSError:
            return await _never()

    def _largest(self, container: ContainerID) -> Process | None:
        witness = self._witnesses.get(container)
        return None if witness is None else witness.largest

    async def cleanup(self, container: ContainerID) -> None:
        """Forget who was seen."""
        self._witnesses.pop(container, None)

    def _limitation(self, group: Cgroup, killed: int, largest: Process | None) -> Limitation:
        files = self._files
        limit = group.read_limit(files.limit)
        peak = group.read_int(files.peak) if group.has(files.peak) else None
        words = [_cause(limit, peak, hits=self._hits(group))]
        words.append(f"the kernel killed {self._victims(killed)}")
        if largest is not None:
            words.append(f"the largest was {largest}")
        return Limitation(resource="memory", message="; ".join(words), requested=limit, peak=peak)

    def _victims(self, killed: int) -> str:
        if self._files.fixed:  # memory.oom.group; the kernel then counts some of the killed twice
            return "the whole container"
        return f"{killed} process{'' if killed == 1 else 'es'}"

    def _hits(self, group: Cgroup) -> int:
        return sum(
            group.read_int(name) if key is None else group.read_table(name).get(key, 0)
            for name, key in self._files.failures
            if group.has(name)
        )

    async def usage(self, container: ContainerID) -> Usage:
        """What is used, was used at most, and may be."""
        files = self._files
        group = self.group(container)
        try:
            stat = group.read_table("memory.stat")
            return Usage(
                memory=group.read_int(files.current),
                memory_peak=group.read_int(files.peak) if group.has(files.peak) else None,
                memory_limit=group.read_limit(files.limit),
                memory_anon=stat.get(files.anon),
                memory_file=stat.get(files.file),
                memory_kernel=group.read_int(files.kernel)
                if group.has(files.kernel)
                else stat.get(files.kernel),
                memory_swap=_swapped(group, stat),
                oom_kills=group.read_table(files.events).get(KILLS),
            )
        except OSError:
            return Usage()


def _swap_total(resources: Resources) -> int | None:
    """Memory and swap together: as asked, else docker's twice the memory."""
    if resources.memory_swap is not None or resources.memory is None:
        return resources.memory_swap
    return 2 * resources.memory


def _swapped(group: Cgroup, stat: dict[str, int]) -> int | None:
    if group.has("memory.swap.current"):
        return group.read_int("memory.swap.current")
    return stat.get("total_swap")


def _refuse(limit: int, used: int) -> NoReturn:
    raise Busy(
        f"the memory limit cannot become {size(limit)}: {size(used)} are in use and cannot be given up",
        hint="free memory in the container first, or choose a higher limit",
    )


def _cause(limit: int | None, peak: int | None, *, hits: int) -> str:
    """Whose lack it was.  v1 does not count every failure, Linux 6.18 none of the sum with swap."""
    if limit is None or not (hits or (peak is not None and peak + CHARGE >= limit)):
        return "memory: the host, or a container around this one, ran out of it"
    used = "" if peak is None else f" (most used: {size(peak)})"
    return f"memory: the limit of {size(limit)} was reached{used}"


def _notes(resources: Resources) -> Iterator[str]:
    if resources.memory is not None:
        yield f"memory limit: {size(resources.memory)}"
    if resources.memory_swap is not None:
        yield f"memory and swap limit: {size(resources.memory_swap)}"
    if resources.memory_request is not None:
        yield f"memory kept: {size(resources.memory_request)}"


async def _never() -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError  # an event that nobody sets
