"""Ending what a thread does for somebody who has gone."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from mesocosm.images.files import write_all
from mesocosm.images.transfer import in_thread

_PATIENCE: Final = 100  # milliseconds between looks at whether anybody still wants the bytes

_Result = TypeVar("_Result")


class Stopped(Exception):
    """Nobody wants the result any more."""


async def stoppable(call: Callable[[threading.Event], _Result]) -> _Result:
    """Run it in a thread; a cancel sets the event, at which it ends at the next piece with `Stopped`."""
    stopped = threading.Event()
    return await in_thread(call, stopped, stop=stopped.set)


@contextlib.contextmanager
def written_to(target: int, stopped: threading.Event) -> Iterator[Callable[[bytes | memoryview], None]]:
    """Yield what writes to an open file.  A pipe that nobody reads holds nobody up who sets ``stopped``."""
    if stat.S_ISREG(os.fstat(target).st_mode):
        yield lambda data: write_all(target, data)
        return
    with _without_waiting(target) as (fd, most):
        ready = select.poll()
        ready.register(fd, select.POLLOUT)

        def put(data: bytes | memoryview) -> None:
            left = memoryview(data)
            while left:
                if stopped.is_set():
                    raise Stopped
                if ready.poll(_PATIENCE):
                    with contextlib.suppress(BlockingIOError):
                        left = left[os.write(fd, left[:most]) :]

        yield put


@contextlib.contextmanager
def _without_waiting(target: int) -> Iterator[tuple[int, int]]:
    """The same pipe opened once more, so that a write takes what fits and does not wait; and how many bytes
    one may have.

    The descriptor itself stays as it is, because others have it too.  What cannot be opened again, a socket
    say, has room for PIPE_BUF bytes at least when poll(2) says that it is ready (pipe(7)).
    """
    try:
        fd = os.open(f"/proc/self/fd/{target}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        yield target, select.PIPE_BUF
        return
    try:
        yield fd, 1 << 30
    finally:
        os.close(fd)
