"""Who uses the memory of a cgroup, looked at while it nears its limit.

When the kernel's killer has chosen, the victim is gone before anybody can look.  So one looks whenever the
kernel says that usage crossed a part of the limit or that reclaiming gets hard (v1: thresholds, pressure and
oom_control of cgroup-v1/memory.rst, sections 9 to 11) or that pages had to be reclaimed at the limit (v2:
``max`` of memory.events), and keeps the largest process seen (parity GAP-9).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import msgspec

from mesocosm.isolators.words import size
from mesocosm.linux.cgroups import Cgroup
from mesocosm.linux.cgroups.events import registered
from mesocosm.linux.inotify import watch

THRESHOLDS = (0.5, 0.9)
_SETTLED = 0.05  # seconds: to register a threshold takes a grace period, which a short life need not wait for
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

    @asynccontextmanager
    async def watching(self, limit: int | None) -> AsyncIterator[None]:
        """Look whenever the kernel gives reason to; never when it cannot tell."""
        tasks = [asyncio.ensure_future(source) for source in self._sources(limit)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def look(self) -> None:
        """Look now."""
        for pid in self.group.all_procs()[:_MANY]:
            seen = examine(pid)
            if seen is not None and (self.largest is None or seen.resident >= self.largest.resident):
                self.largest = seen

    def _sources(self, limit: int | None) -> Iterator[Coroutine[Any, Any, None]]:
        if self.group.version == 2:
            yield self._look_at(watch(f"{self.group.path}/memory.events"))
            return
        yield self._look_at(
            registered(self.group, ("memory.pressure_level", "critical"), ("memory.oom_control", ""))
        )
        if limit is not None:
            yield self._look_at_thresholds(limit)

    async def _look_at_thresholds(self, limit: int) -> None:
        await asyncio.sleep(_SETTLED)
        wishes = [("memory.usage_in_bytes", str(int(limit * part))) for part in THRESHOLDS]
        await self._look_at(registered(self.group, *wishes))

    async def _look_at(self, source: AbstractAsyncContextManager[Callable[[], Awaitable[None]]]) -> None:
        with suppress(OSError):
            async with source as changed:
                while True:
                    await changed()
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
