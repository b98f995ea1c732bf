"""A payload in the foreground: its output on our streams, our signals to it, its end as our exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from mesocosm.errors import MesocosmError
from mesocosm.frontends.cli.saying import say
from mesocosm.frontends.cli.settings import ERRORS, OUTPUT, ReaderGone
from mesocosm.frontends.cli.signals import Signals
from mesocosm.logs import Chunk

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
PATIENCE = 1.0  # seconds after which a person is told how to end what ignores Ctrl-C


class Outlet:
    """Our two output streams, written to by a thread: a slow reader must not keep us from anything else.

    The thread does not outlive the process: what nobody reads is dropped at the end.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[int, bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def write(self, stream: str, data: bytes) -> None:
        """Write all of ``data`` to our stream of that name.  Raises ReaderGone when nobody reads it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="output", daemon=True)
            self._thread.start()
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._work.put((sys.stdout.fileno() if stream == "stdout" else sys.stderr.fileno(), data, written))
        try:
            await written
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            name = OUTPUT if stream == "stdout" else ERRORS
            raise OSError(error.errno, error.strerror, name) from None

    def _serve(self) -> None:
        while True:
            descriptor, data, written = self._work.get()
            failure = _write(descriptor, data)
            with contextlib.suppress(RuntimeError):  # the loop is gone, so is whoever waited
                written.get_loop().call_soon_threadsafe(_settle, written, failure)


def _write(descriptor: int, data: bytes) -> OSError | None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            _await_room(descriptor)
        except OSError as error:
            return error
    return None


def _await_room(descriptor: int) -> None:
    """A stream that somebody made non-blocking."""
    import select  # noqa: PLC0415

    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


def _settle(written: asyncio.Future[None], failure: OSError | None) -> None:
    if written.done():
        return
    if failure is None:
        written.set_result(None)
    else:
        written.set_exception(failure)


async def show(chunks: AsyncIterator[Chunk]) -> None:
    """Write a payload's streams to ours, as the bytes they are.  Raises ReaderGone."""
    outlet = Outlet()
    async for chunk in chunks:
        await outlet.write(chunk.stream, chunk.data)


@contextlib.contextmanager
def forwarding(
    signals: Signals, send: Callable[[int], Awaitable[object]], force: Callable[[], Awaitable[object]]
) -> Iterator[asyncio.Event]:
    """While inside, signals to this command go to the payload; a second SIGINT or SIGTERM ends it by force.

    From when the yielded event is set, that is; before there is a payload they are no business of its.
    SIGHUP, the terminal going away, is not forwarded: the container goes on without us.
    """
    started = asyncio.Event()
    asked: set[int] = set()
    running: set[asyncio.Future[object]] = set()
    reminders: list[asyncio.TimerHandle] = []

    async def attempt(number: int, again: bool) -> object:
        with contextlib.suppress(MesocosmError, OSError):
            return await (force() if again else send(number))
        return None

    def arrived(number: int) -> bool:
        if not started.is_set():
            return False
        again = number in asked and number in (signal.SIGINT, signal.SIGTERM)
        if number == signal.SIGINT and not asked and sys.stderr.isatty():
            reminders.append(asyncio.get_running_loop().call_later(PATIENCE, _remind))
        asked.add(number)
        task = asyncio.ensure_future(attempt(number, again))
        running.add(task)
        task.add_done_callback(running.discard)
        return True

    with signals.handling(FORWARDED, arrived):
        try:
            yield started
        finally:
            for reminder in reminders:
                reminder.cancel()
            for task in running:
                task.cancel()


def _remind() -> None:
    say("it has been asked to end; Ctrl-C once more ends it by force")


class Input:
    """The reading end of a pipe, until it is closed."""

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Close our copy, so that the payload's is the last.  Idempotent."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


@contextlib.contextmanager
def standard_input(wanted: bool) -> Iterator[Input]:
    """Something for the payload to read our standard input from: a pipe that we fill, never our terminal.

    A payload with the terminal itself could push characters into it (TIOCSTI, R-26), and one with a file's
    descriptor could open that file again for writing.
    """
    if not wanted:
        yield Input(None)
        return
    reading, writing = os.pipe2(os.O_CLOEXEC)
    # A thread, because epoll cannot wait for files, and one that is left behind when we end in a read.
    threading.Thread(target=_pump, args=(writing,), name="input", daemon=True).start()
    pipe = Input(reading)
    try:
        yield pipe
    finally:
        pipe.close()


def _pump(writing: int) -> None:
    """Copy until our input ends or nobody reads it."""
    try:
        while data := os.read(0, 65536):
            view = memoryview(data)
            while view:
                view = view[os.write(writing, view) :]
    except OSError:
        return
    finally:
        os.close(writing)
