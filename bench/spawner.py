"""Starts the peers' commands and times them.

A small process of its own, so that the benchmark's size, threads and event loop cost the peers nothing.
Reads one JSON request a line and answers with one.

It runs in a private mount namespace with ``/sys/fs/cgroup/unified`` unmounted: crun 1.8.1 refuses the hybrid
layout ("cgroups in hybrid mode not supported").  What it sees then is version 1 alone, with every controller
that the comparison limits.  runc and bubblewrap run in the same place, for fairness.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import sys
import time
from typing import Any

CLONE_NEWNS = 0x00020000
MS_REC = 0x4000
MS_SLAVE = 1 << 19
UNIFIED = b"/sys/fs/cgroup/unified"


def enter() -> None:
    """Make the mount namespace private and hide the second hierarchy in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None):
        raise OSError(ctypes.get_errno(), "unshare")
    if os.path.ismount(UNIFIED) and libc.umount2(UNIFIED, 0):
        raise OSError(ctypes.get_errno(), os.fsdecode(UNIFIED))


class Spawner:
    """Starts commands; ``{id}`` in a word becomes a name never used before."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def start(self, words: list[str]) -> int:
        """Start one; what it reads and prints is the null device, what it complains about is seen."""
        name = f"b{os.getpid():x}-{next(self._numbers):x}"
        argv = [word.replace("{id}", name) for word in words]
        actions = [(os.POSIX_SPAWN_DUP2, self._null, fd) for fd in (0, 1)]
        return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)

    def run(self, words: list[str], count: int, in_flight: int) -> dict[str, Any]:
        """Run a command ``count`` times, ``in_flight`` at once.

        Answers wall time in all, processor time of the commands, and the exit statuses that were not 0.
        """
        failed = []
        cpu = 0.0
        started = 0
        running = 0
        begin = time.perf_counter()
        while started < count or running:
            while started < count and running < in_flight:
                self.start(words)
                started += 1
                running += 1
            _, status, used = os.wait3(0)
            running -= 1
            cpu += used.ru_utime + used.ru_stime
            if status:
                failed.append(os.waitstatus_to_exitcode(status))
        return {"wall": time.perf_counter() - begin, "cpu": cpu, "failed": failed}


def main() -> None:
    """Answer requests until standard input ends."""
    enter()
    spawner = Spawner()
    for line in sys.stdin:
        request = json.loads(line)
        answer = spawner.run(request["argv"], request["count"], request["in_flight"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
