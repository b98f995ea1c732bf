"""Who uses the memory of a cgroup, looked at while it nears its limit.

When the kernel's killer has chosen, the victim is gone before anybody can look.  So one looks whenever the
kernel says that usage crossed a part of the limit (v1: thresholds of cgroup-v1/memory.rst, section 7) or that
it reached the limit and pages had to be reclaimed (v2: ``max`` of memory.events), and keeps the largest
process seen (parity GAP-9).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

from mesocosm.isolators.words import size
from mesocosm.linux.cgroups import Cgroup
from mesocosm.linux.cgroups.events import registered
from mesocosm.linux.inotify import watch

THRESHOLDS = (0.5, 0.75, 0.9, 0.97)
_PAUSE = 0.02  # seconds between looks: a cgroup that lives at its limit has events all the time
_MANY = 4096  # processes looked at
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(msgspec.Struct, frozen=True):
    """A process by name, ID on the host, and resident memory in bytes."""

    name: str
    pid: int
    resident: int

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid}, {size(self.resident)})"


class Witness:
    """Remembers the largest process of a cgroup."""

    def __init__(self, group: Cgroup) -> None:
        self.group = group
        self.largest: Process | None = None

    @classmethod
    @asynccontextmanager
    async def watching(cls, group: Cgroup, limit: int | None) -> AsyncIterator[Witness]:
        """A witness that looks whenever the kernel gives reason to.  Silent when the kernel cannot tell."""
        witness = cls(group)
        task = asyncio.ensure_future(witness._stay(limit))
        try:
            yield witness
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def look(self) -> None:
        """Look now."""
        for pid in self.group.all_procs()[:_MANY]:
            seen = examine(pid)
            if seen is not None and (self.largest is None or seen.resident >= self.largest.resident):
                self.largest = seen

    async def _stay(self, limit: int | None) -> None:
        with suppress(OSError):
            if self.group.version == 2:
                await self._stay_by_events()
            elif limit is not None:
                await self._stay_by_thresholds(limit)

    async def _stay_by_events(self) -> None:
        async with watch(f"{self.group.path}/memory.events") as changed:
            while True:
                await changed()
                self.look()
                await asyncio.sleep(_PAUSE)

    async def _stay_by_thresholds(self, limit: int) -> None:
        wishes = [("memory.usage_in_bytes", str(int(limit * part))) for part in THRESHOLDS]
        async with registered(self.group, *wishes) as crossed:
            while True:
                await crossed()
                self.look()
                await asyncio.sleep(_PAUSE)


def examine(pid: int) -> Process | None:
    """A process as /proc shows it; None when it is gone.  The name is the payload's own choice: see
    ``_printable``.
    """
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            name = file.read(64)
        with open(f"/proc/{pid}/statm", "rb") as file:
            resident = int(file.read(128).split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None
    return Process(_printable(name), pid, resident)


def _printable(name: bytes) -> str:
    """PR_SET_NAME takes any bytes, terminal sequences too."""
    return "".join(chr(c) if 32 < c < 127 else "?" for c in name.removesuffix(b"\n"))[:15]
