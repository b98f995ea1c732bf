"""What a host does to a backend: cannot or may not, has no room, ends its process anywhere."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from mesocosm.images.conformance.facts import hold
from mesocosm.linux import capabilities, mounts, syscalls


@contextlib.contextmanager
def without_mounting() -> Iterator[None]:
    """This thread has no CAP_SYS_ADMIN, which mount(2) and its kin ask for."""
    effective, permitted, inheritable = syscalls.capget()
    syscalls.capset(effective & ~capabilities.mask(["CAP_SYS_ADMIN"]), permitted, inheritable)
    try:
        yield
    finally:
        syscalls.capset(effective, permitted, inheritable)


@contextlib.contextmanager
def on_overlay(folder: Path) -> Iterator[Path]:
    """An empty directory on an overlay, as containers have: no other overlay can keep its changes there
    (EINVAL, fs/overlayfs/params.c).  ``folder`` is where this one keeps its own.
    """
    places = [folder / name for name in ("lower", "upper", "work")]
    for place in places:
        place.mkdir()
    lower, upper, work = map(str, places)
    fd = mounts.overlay([lower], upper=upper, work=work)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@contextlib.contextmanager
def in_memory(place: Path, files: int, pages: int = 1) -> Iterator[Path]:
    """A new, empty directory on a disk of its own, with room for so many files and pages of data.

    It is mounted at ``place``: before Linux 6.15 no part of an overlay may lie in a detached mount.
    """
    place.mkdir()
    fd = mounts.tmpfs(size=pages * resource.getpagesize(), inodes=1 + files)
    try:
        mounts.attach_at(fd, str(place))
    finally:
        os.close(fd)
    try:
        yield place
    finally:
        mounts.detach(str(place))
        place.rmdir()


def counted(act: Callable[[], object]) -> int:
    """How many calls and returns, of Python's functions and C's, it takes to act."""
    count = 0

    def step(frame: FrameType, event: str, argument: object) -> None:
        del frame, event, argument
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(step)
    try:
        act()
    finally:
        sys.setprofile(before)
    return count


def dying(at: int, act: Callable[[], object]) -> None:
    """Act in a process that ends, as by SIGKILL, with so many of these calls done."""
    pid = os.fork()
    if pid == 0:
        try:
            _act_and_die(at, act)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    hold(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "it failed before it was interrupted")


def _act_and_die(at: int, act: Callable[[], object]) -> None:
    left = at

    def step(frame: FrameType, event: str, argument: object) -> None:
        del frame, event, argument
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(0)

    sys.setprofile(step)
    act()
    os._exit(0)
