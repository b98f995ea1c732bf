"""Hands pieces from one thread to another that works on them, in order and a bounded number behind.

For two kinds of work on one stream that both do without the interpreter's lock most of the time: inflating
and hashing here, system calls there.  A process that may use one processor only works on each piece at once,
while it is still in that processor's cache.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Final

DEPTH: Final = 16
"""Pieces that may wait; with pieces of 256 KiB, 4 MiB."""


class Conveyor:
    """Calls ``work`` with every piece, in a thread that starts with the first one if there are processors for
    two (sched_getaffinity(2)).

    What ``work`` raises ends it, and is raised by the next `put`, or by `finish`.  Either `finish` or `abort`
    must be called, which wait for the thread; `put`, `finish` and `abort` are one thread's.
    """

    def __init__(self, work: Callable[[bytes], None]) -> None:
        self._work = work
        self._alone = len(os.sched_getaffinity(0)) == 1
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(DEPTH)
        self._failure: BaseException | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    def put(self, piece: bytes) -> None:
        """Have ``piece`` worked on, after waiting for room."""
        if self._alone:
            self._work(piece)
            return
        self._room.acquire()
        if self._failure is not None:
            raise self._failure
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mesocosm-conveyor", daemon=True)
            self._thread.start()
        self._pieces.put(piece)

    def finish(self) -> None:
        """Return once every piece has been worked on."""
        self._join()
        if self._failure is not None:
            raise self._failure

    def abort(self) -> None:
        """Return once the piece at hand has been worked on; the others are dropped.  Callable twice."""
        self._stopped = True
        self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if self._failure is None and not self._stopped:
                try:
                    self._work(piece)
                except BaseException as failure:
                    self._failure = failure
            self._room.release()
