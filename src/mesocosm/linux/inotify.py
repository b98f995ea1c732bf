"""Waiting for a file to change: inotify(7) for asyncio."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

_libc = ctypes.CDLL(None, use_errno=True)
_inotify_init1 = _libc.inotify_init1
_inotify_init1.argtypes = (ctypes.c_int,)
_inotify_add_watch = _libc.inotify_add_watch
_inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)

Waiter = Callable[[], Awaitable[None]]

_IN_MODIFY = 0x2
_IN_DELETE_SELF = 0x400


@asynccontextmanager
async def watch(path: str) -> AsyncIterator[Waiter]:
    """Watch one file; yields a function that waits for the next modification, or for the file's removal.

    What happens between two waits ends the later one at once, so a reader that looks after arming and then
    waits misses nothing.  Raises OSError with the path.
    """
    fd = _inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise _os_error(path)
    try:
        if _inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY | _IN_DELETE_SELF) < 0:
            raise _os_error(path)
        yield lambda: readable(fd)
    finally:
        os.close(fd)


async def readable(*fds: int, drain: bool = True) -> None:
    """Wait until one descriptor can be read; with ``drain`` read it, so that the next wait is for news."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def arrived() -> None:
        if not ready.done():
            ready.set_result(None)

    for fd in fds:
        loop.add_reader(fd, arrived)
    try:
        await ready
    finally:
        for fd in fds:
            loop.remove_reader(fd)
    for fd in fds if drain else ():
        try:
            os.read(fd, 4096)
        except BlockingIOError:
            continue


def _os_error(path: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), path)
