"""A payload in the foreground: its output on our streams, our signals to it, its end as our exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from mesocosm.errors import MesocosmError
from mesocosm.logs import Chunk

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)


async def show(chunks: AsyncIterator[Chunk]) -> None:
    """Write a payload's streams to ours, as the bytes they are; a reader that went away ends the showing."""
    streams = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    async for chunk in chunks:
        try:
            streams[chunk.stream].write(chunk.data)
            streams[chunk.stream].flush()
        except BrokenPipeError:
            return


@contextlib.contextmanager
def forwarding(
    send: Callable[[int], Awaitable[object]], force: Callable[[], Awaitable[object]]
) -> Iterator[None]:
    """While inside, signals to this command go to the payload; a second SIGINT or SIGTERM ends it by force.

    SIGHUP, the terminal going away, is not forwarded: the container goes on without us.
    """
    loop = asyncio.get_running_loop()
    asked: set[int] = set()
    running: set[asyncio.Future[object]] = set()

    async def attempt(act: Awaitable[object]) -> object:
        with contextlib.suppress(MesocosmError, OSError):
            return await act
        return None

    def arrived(number: int) -> None:
        again = number in asked and number in (signal.SIGINT, signal.SIGTERM)
        asked.add(number)
        task = asyncio.ensure_future(attempt(force() if again else send(number)))
        running.add(task)
        task.add_done_callback(running.discard)

    before = {number: signal.getsignal(number) for number in FORWARDED}
    for number in FORWARDED:
        loop.add_signal_handler(number, arrived, int(number))
    try:
        yield
    finally:
        for number in FORWARDED:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number] or signal.SIG_DFL)


@contextlib.asynccontextmanager
async def standard_input(wanted: bool) -> AsyncIterator[int | None]:
    """A descriptor for the payload to read our standard input from: a pipe that we fill, never our terminal.

    A payload with the terminal itself could push characters into it (TIOCSTI, R-26).
    """
    if not wanted:
        yield None
        return
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pump = asyncio.create_task(_pump(writing))
    try:
        yield reading
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)


async def _pump(writing: int) -> None:
    """Copy until our input ends; files and null devices are read by a thread, which epoll cannot wait for."""
    try:
        while data := await asyncio.to_thread(os.read, 0, 65536):
            view = memoryview(data)
            while view:
                view = view[await asyncio.to_thread(os.write, writing, view) :]
    except BrokenPipeError:
        return
    finally:
        os.close(writing)
