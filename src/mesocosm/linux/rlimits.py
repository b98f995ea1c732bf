"""Resource limits: names, numbers, and setting what the kernel allows.  getrlimit(2)."""

from __future__ import annotations

import errno
import os

from mesocosm.linux.syscalls import RLIM_INFINITY, prlimit

NUMBERS = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "as": 9,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}
"""Docker's names, which are the constants' without ``RLIMIT_`` in lower case; equal on x86-64 and arm64."""

UNLIMITED = RLIM_INFINITY


def canonical(name: str) -> str:
    """Docker's name for ``nofile``, ``NOFILE`` or ``RLIMIT_NOFILE``.  ValueError when there is none."""
    word = name.lower().removeprefix("rlimit_")
    if word not in NUMBERS:
        raise ValueError(f"no resource limit is called {name!r}")
    return word


def number_of(name: str) -> int:
    """The number of a limit by any of its names.  ValueError when there is none."""
    return NUMBERS[canonical(name)]


def get(name: str, pid: int = 0) -> tuple[int, int]:
    """The ``(soft, hard)`` limit of a process, `UNLIMITED` for none; ``pid`` 0 is the caller."""
    return prlimit(pid, number_of(name))


def apply(name: str, soft: int, hard: int) -> str | None:
    """Set a limit of the calling process; None, or a warning when the kernel allows less than was asked for.

    Above the hard limit in force, which takes CAP_SYS_RESOURCE, both values are clamped to it (``nofile``
    also to ``fs.nr_open``, which binds even those who have it).
    """
    number = number_of(name)
    try:
        prlimit(0, number, (soft, hard))
    except OSError as error:
        if error.errno != errno.EPERM:
            raise OSError(error.errno, os.strerror(error.errno or 0), f"limit {name}") from None
        ceiling = prlimit(0, number)[1]
        clamped = min(soft, ceiling), min(hard, ceiling)
        prlimit(0, number, clamped)
        asked, given = (f"{show(low)}:{show(high)}" for low, high in ((soft, hard), clamped))
        return f"limit {name} {asked} is more than is allowed here, set to {given}"
    return None


def show(value: int) -> str:
    """A limit as people write it."""
    return "unlimited" if value == UNLIMITED else str(value)
