"""Two processes at work on one store, of which one is killed while the other goes on.  Run as a program.

Each line of standard input is JSON: a `Case`; each line printed what came of it (`Outcome`).  Whoever is told
to stop at a point does so with all it holds.  The other one runs until it waits for that, stops itself, or
has ended; then the victim gets SIGKILL, and the survivor goes on to its end.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import threading
import traceback
from collections import Counter
from pathlib import Path
from typing import NoReturn

import msgspec

from mesocosm import trace
from mesocosm.images.collect import Limits
from mesocosm.images.provisioner import Provisioner
from mesocosm.model import ContainerID
from mesocosm.paths import Paths

PATIENCE = 60
"""Seconds after which who does not end is taken for stuck."""

POINT = "point "
HALTED = "halted\n"


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """What one of the two does (`work`) to which image, under the name of a container of its own, and where
    it stops: at the ``passing``-th passing of ``point``; empty: nowhere.
    """

    verb: str
    image: str
    own: str
    point: str = ""
    passing: int = 1


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Both, on the store below ``folder``; who ``begins`` is stopped first."""

    folder: str
    victim: Rival
    survivor: Rival
    begins: str = "victim"

    @property
    def words(self) -> str:
        """For people."""
        victim, survivor = (
            f"{one.verb} at {one.point} {one.passing}" for one in (self.victim, self.survivor)
        )
        return f"{victim} was killed, {survivor} went on; {self.begins} began"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The survivor's exit status (None: it had to be killed) and last words; ``points`` each passed."""

    status: int | None
    words: str
    victim: tuple[str, ...] = ()
    survivor: tuple[str, ...] = ()


async def work(folder: Path, rival: Rival) -> None:
    """One verb on the store."""
    container = ContainerID.parse(rival.own)
    async with Provisioner.open(Paths(folder / "state", folder / "run"), settings=folder / "none") as images:
        match rival.verb:
            case "pull":
                await images.pull(rival.image)
            case "prune":
                await images.prune(Limits(age=0.0))
            case "rm":
                await images.remove(rival.image, force=True)
            case "mount":
                await images.provision(container, rival.image, scratch=folder / rival.own)
            case "none":
                pass
            case _:
                raise ValueError(rival.verb)


class Running:
    """A rival as a process of its own, which tells the points that it passes."""

    def __init__(self, folder: Path, rival: Rival) -> None:
        heard, told = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _live(folder, rival, told)
        os.close(told)
        self._held = os.pidfd_open(self._pid)
        self._lines = os.fdopen(heard)
        self.points: list[str] = []
        self.words = ""

    def until_halted(self) -> None:
        """Until it has stopped, waits for the other one, or has ended."""
        for line in iter(self._lines.readline, ""):
            self._take(line)
            if line == HALTED or line.endswith(".waiting\n"):
                return

    def kill(self) -> None:
        """SIGKILL; afterwards it is gone."""
        signal.pidfd_send_signal(self._held, signal.SIGKILL)
        self.ended()

    def go_on(self) -> None:
        """After a stop."""
        signal.pidfd_send_signal(self._held, signal.SIGCONT)

    def ended(self) -> int | None:
        """Its exit status; None when it does not end by itself."""
        stuck = not select.select([self._held], [], [], PATIENCE)[0]
        if stuck:
            signal.pidfd_send_signal(self._held, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        for line in self._lines:
            self._take(line)
        self._lines.close()
        os.close(self._held)
        return None if stuck else os.waitstatus_to_exitcode(status)

    def _take(self, line: str) -> None:
        if line.startswith(POINT):
            self.points.append(line.removeprefix(POINT).rstrip())
        elif line != HALTED:
            self.words += line


def _live(folder: Path, rival: Rival, told: int) -> NoReturn:
    passed: Counter[str] = Counter()
    lock = threading.Lock()

    def observe(point: str) -> None:
        with lock:
            passed[point] += 1
            if point.endswith(".waiting") and passed[point] > 1:
                return  # it looks again and again
            os.write(told, f"{POINT}{point}\n".encode())
            if (point, passed[point]) == (rival.point, rival.passing):
                os.write(told, HALTED.encode())
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # at once, with all threads

    trace.observe(observe)
    status = 1
    try:
        asyncio.run(work(folder, rival))
        status = 0
    except BaseException:
        os.write(told, traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(status)


def played(case: Case) -> Outcome:
    """What comes of one case."""
    folder = Path(case.folder)
    first = Running(folder, case.victim if case.begins == "victim" else case.survivor)
    first.until_halted()
    second = Running(folder, case.survivor if case.begins == "victim" else case.victim)
    second.until_halted()
    victim, survivor = (first, second) if case.begins == "victim" else (second, first)
    victim.kill()
    survivor.go_on()
    status = survivor.ended()
    points = tuple(victim.points), tuple(survivor.points)
    return Outcome(status=status, words=survivor.words, victim=points[0], survivor=points[1])


def main() -> None:
    """Play each case."""
    for line in sys.stdin.buffer:
        os.write(1, msgspec.json.encode(played(msgspec.json.decode(line, type=Case))) + b"\n")


if __name__ == "__main__":
    main()
