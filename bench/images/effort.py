"""What something cost: seconds on the wall, seconds on the processors, memory at its largest."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.images.scratch import sync
from mesocosm.frontends.cli.main import COLLECT_AFTER

_TICK = os.sysconf("SC_CLK_TCK")


class Effort(NamedTuple):
    """Seconds, seconds, MiB.  Children and, where one is named, a daemon are counted in ``cpu``."""

    wall: float
    cpu: float
    memory: float


def of_commands(
    *commands: tuple[str, ...], durable: Path, env: Mapping[str, str] | None = None, daemon: int | None = None
) -> Effort:
    """Run commands one after another, then make ``durable``'s file system durable, which is counted."""
    before = cpu_of(daemon)
    begin = time.perf_counter()
    cpu, memory = 0.0, 0
    for words in commands:
        pid = _start(words, env)
        used, peak = _reap(pid, " ".join(words))
        cpu, memory = cpu + used, max(memory, peak)
    sync(durable)
    wall = time.perf_counter() - begin
    return Effort(wall, cpu + cpu_of(daemon) - before, memory / 1024)


def of_call(work: Callable[[], None], *, durable: Path, alone: bool = False) -> Effort:
    """Run ``work`` in a child of its own, then make ``durable``'s file system durable, which is counted.

    ``alone``: on one processor.  Two that are threads of one core take from each other, and the seconds that
    they both count are more than the work has.
    """
    sys.stdout.flush()
    begin = time.perf_counter()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            if alone:
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            gc.set_threshold(COLLECT_AFTER)  # as in a command
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    used, peak = _reap(pid, "our own work")
    sync(durable)
    return Effort(time.perf_counter() - begin, used, peak / 1024)


def cpu_of(daemon: int | None) -> float:
    """Seconds that a process and its reaped children have used (proc_pid_stat(5), fields 14 to 17)."""
    if daemon is None:
        return 0.0
    fields = Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK


def _start(words: tuple[str, ...], env: Mapping[str, str] | None) -> int:
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
    return os.posix_spawnp(words[0], words, {**os.environ, **(env or {})}, file_actions=quiet)


def _reap(pid: int, what: str) -> tuple[float, int]:
    _, status, used = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{what}: exit status {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss


def output(*words: str, env: Mapping[str, str] | None = None) -> str:
    """What a command prints."""
    done = subprocess.run(
        words, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    return done.stdout.strip()
