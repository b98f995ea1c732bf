"""The processes of one cgroup: made to stand still, let go on, killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

from mesocosm.errors import Unsupported
from mesocosm.linux.cgroups import events
from mesocosm.linux.cgroups.group import Cgroup
from mesocosm.linux.processes import send_signal
from mesocosm.linux.syscalls import pidfd_open

_FREEZER = {
    True: (("cgroup.freeze", "1"), ("freezer.state", "FROZEN")),
    False: (("cgroup.freeze", "0"), ("freezer.state", "THAWED")),
}
"""Files of either version, and what stops the processes or lets them go on."""

_FREEZING = 0.002
"""Seconds between looks at the v1 freezer, which tells nobody when it is done."""


async def freeze(group: Cgroup) -> None:
    """Stop every process of the group and of those below it where it is; Unsupported where the kernel cannot
    (cgroup-v2 before Linux 5.2).
    """
    if not any(group.has(name) for name, _ in _FREEZER[True]):
        raise Unsupported("this kernel cannot pause a container", hint="Linux 5.2 and later can")
    _frozen(group, frozen=True)
    if group.version == 2:
        await events.wait_counter(group, "cgroup.events", "frozen")
    else:
        while group.read("freezer.state").strip() != "FROZEN":  # noqa: ASYNC110  (v1 tells nobody)
            await asyncio.sleep(_FREEZING)


def thaw(group: Cgroup) -> None:
    """Undo `freeze`.  Raises FileNotFoundError for a group that is gone."""
    _frozen(group, frozen=False)


def thawing(group: Cgroup) -> tuple[tuple[str, str], ...]:
    """What `thaw` writes: files, and the word for each."""
    return tuple((f"{group.path}/{name}", word) for name, word in _FREEZER[False] if group.has(name))


async def kill(group: Cgroup, present: Sequence[Cgroup]) -> None:
    """Kill every process of the group and of those below it, and wait until none is left.

    ``present`` are the same container's groups, in which v1 may hold the processes.
    """
    while group.populated():
        _kill(group)
        _thaw(present)
        await _until_empty(group)


def _kill(group: Cgroup) -> None:
    try:
        if group.has("cgroup.kill"):
            group.write("cgroup.kill", 1)
            return
    except FileNotFoundError:
        return
    _frozen(group, frozen=True)
    try:
        _signal_members(group)
    finally:
        _frozen(group, frozen=False)


def _signal_members(group: Cgroup) -> None:
    """SIGKILL to every member, held by pidfd first and found a member after, so that no stranger is hit."""
    held: dict[int, int] = {}
    try:
        for pid in group.all_procs():
            try:
                held[pid] = pidfd_open(pid)
            except OSError:
                continue
        for pid in group.all_procs():
            if pid in held:
                send_signal(held[pid], signal.SIGKILL)
    finally:
        for fd in held.values():
            os.close(fd)


def _thaw(groups: Sequence[Cgroup]) -> None:
    """What the v1 freezer holds does not die, by whatever it was killed."""
    for group in groups:
        if group.has("freezer.state"):
            for below in group.walk():
                below.write("freezer.state", "THAWED")


def _frozen(group: Cgroup, *, frozen: bool) -> None:
    """Freeze or thaw where the hierarchy can.  SIGKILL ends a frozen process on v2 at once, on v1 when
    thawed.
    """
    for name, word in _FREEZER[frozen]:
        if group.has(name):
            group.write(name, word)


async def _until_empty(group: Cgroup) -> None:
    """Wait for the killed to go; not for ever, because without cgroup.kill one may have forked meanwhile."""
    try:
        async with asyncio.timeout(1.0):
            await events.wait_empty(group)
    except TimeoutError:
        return
