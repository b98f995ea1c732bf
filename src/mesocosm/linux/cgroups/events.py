"""Waiting for a cgroup to say something: a counter that rises, the last process gone.

v2 tells by inotify on its events files (cgroup-v2.rst, "Notifications"), v1's memory controller by an eventfd
registered in ``cgroup.event_control`` (cgroup-v1/memory.rst, section 9).  Of other counters v1 does not tell,
so they are looked at now and then, nor that the last process is gone, so each is held by pidfd.  Every wait
reads the state after it has armed the notification, so that nothing is missed in between, and holds no
descriptor once it has returned or has been cancelled.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mesocosm.linux.inotify import readable, watch
from mesocosm.linux.syscalls import pidfd_open

if TYPE_CHECKING:
    from mesocosm.linux.cgroups.group import Cgroup

Changed = Callable[[], Awaitable[None]]
"""Waits for the next sign that something may have changed."""

_BETWEEN_LOOKS = 0.2
"""Seconds, where the kernel does not tell."""

_BEFORE_REGISTERING = 0.01
"""Seconds: what ends sooner needs no thread, and what does not has lost little."""

_SETTLE = (0.002, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.0)
"""Seconds between looks after v1's memory eventfd was armed or fired: it fires before the victim is killed
and counted, so what tells of the next count may just have come."""


async def wait_counter(group: Cgroup, name: str, key: str, *, above: int = 0) -> int:
    """Wait until ``key`` of a flat keyed events file exceeds ``above``; its value then.

    For memory.events (v2), memory.oom_control (v1), pids.events (both).  A group that is gone raises
    FileNotFoundError; of one that goes meanwhile v1 tells, v2 does not on every kernel.
    """
    settle = _SETTLE if group.has("cgroup.event_control") else ()
    async with _notified(group, name) as changed:
        pauses = iter(settle)
        while True:
            value = _counter(group, name, key)
            if value > above:
                return value
            if await _change(changed, next(pauses, None)):
                pauses = iter(settle)


async def wait_empty(group: Cgroup) -> None:
    """Wait until no living process is in ``group`` or below it.  Returns at once when it is gone."""
    if not group.exists():
        return
    if group.version == 2 and group.has("cgroup.events"):
        await _wait_unpopulated(group)
    else:
        while pids := group.all_procs():
            await _wait_any_end(pids)


async def _wait_unpopulated(group: Cgroup) -> None:
    try:
        async with watch(f"{group.path}/cgroup.events") as changed:
            while group.populated():
                await changed()
    except FileNotFoundError:
        return


def _counter(group: Cgroup, name: str, key: str) -> int:
    try:
        return group.read_table(name).get(key, 0)
    except OSError as error:
        if error.errno == errno.ENODEV:  # removed while the file was open
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), group.path) from None
        raise


async def _change(changed: Changed, within: float | None) -> bool:
    """Wait for the next sign, at most ``within`` seconds; whether there was one."""
    try:
        async with asyncio.timeout(within):
            await changed()
    except TimeoutError:
        return False
    return True


@asynccontextmanager
async def _notified(group: Cgroup, name: str) -> AsyncIterator[Changed]:
    if group.version == 2:
        source = watch(f"{group.path}/{name}")
    elif group.has("cgroup.event_control"):
        source = registered(group, (name, ""))
    else:
        source = _clock()
    async with source as changed:
        yield changed


@asynccontextmanager
async def _clock() -> AsyncIterator[Changed]:
    yield lambda: asyncio.sleep(_BETWEEN_LOOKS)


@asynccontextmanager
async def registered(group: Cgroup, *wishes: tuple[str, str]) -> AsyncIterator[Changed]:
    """An eventfd registered in v1's ``cgroup.event_control`` for each ``(file, argument)``.

    Every registration waits for a grace period of the kernel, some 10 ms: a thread does it, and nobody else
    waits.  Most processes of the short kind have ended before it is begun.  Raises OSError.
    """
    await asyncio.sleep(_BEFORE_REGISTERING)
    event = _Event()
    worker = ThreadPoolExecutor(1, "cgroup.event_control")
    job = worker.submit(_register, group, event.fd, wishes)
    worker.shutdown(wait=False)
    job.add_done_callback(lambda _: event.let_go())
    registering = asyncio.wrap_future(job)
    registering.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.shield(registering)
        yield lambda: readable(event.fd)
    finally:
        event.let_go()
        if not registering.done():
            await asyncio.wait([registering])


class _Event:
    """An eventfd that a thread registers for a waiter, closed by the one who is done with it last.

    The thread uses its number, which must not be another file's by then; and it may end when there is no
    event loop any more that would hear of it.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._holders = 2
        self._lock = threading.Lock()

    def let_go(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                os.close(self.fd)


def _register(group: Cgroup, event: int, wishes: tuple[tuple[str, str], ...]) -> None:
    for name, argument in wishes:
        target = os.open(f"{group.path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            group.write("cgroup.event_control", f"{event} {target} {argument}".rstrip())
        finally:
            os.close(target)


async def _wait_any_end(pids: list[int]) -> None:
    """Wait until at least one of these processes has ended; at once when one is gone already."""
    held: list[int] = []
    try:
        for pid in pids[:256]:
            try:
                held.append(pidfd_open(pid))
            except OSError:
                return
        await readable(*held, drain=False)
    finally:
        for fd in held:
            os.close(fd)
