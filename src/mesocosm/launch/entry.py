"""Steps that put the process into cgroups and namespaces."""

from __future__ import annotations

import errno
import os

from mesocosm.launch import channel, descriptors, handshake
from mesocosm.linux import namespaces, processes, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mesocosm.launch.setup import Setup

    Step = dict[str, Any]


_AHEAD = ("ipc", "uts", "net")
AHEAD = namespaces.flags_of(_AHEAD)
"""What a spare supervisor makes ahead and its child is born in, wanted or not: the kernel takes its time."""

_AT_BIRTH = ("pid", "mnt")
_LATER = ("cgroup",)


def birth_flags(kinds: Sequence[str]) -> int:
    """The CLONE flags of the namespaces that a child is born in because its plan says so."""
    return namespaces.flags_of([kind for kind in kinds if kind in _AT_BIRTH])


def take_namespaces(setup: Setup, *, ahead: bool) -> None:
    """Be in exactly the new namespaces that the plan asks for.

    ``ahead``: we were born in those of `AHEAD`; what is not wanted of them is left for the host's.
    """
    for kind in setup.kinds:
        if kind not in (*_AT_BIRTH, *_AHEAD, *_LATER):
            raise OSError(errno.ENOSYS, f"{kind} namespaces are not supported")
    if not ahead:
        syscalls.unshare(namespaces.flags_of([kind for kind in _AHEAD if kind in setup.kinds]))
        return
    unwanted = namespaces.flags_of([kind for kind in _AHEAD if kind not in setup.kinds])
    if unwanted:
        syscalls.setns(descriptors.HOME, unwanted)


def own_cgroup_namespace(setup: Setup) -> None:
    """Make a cgroup namespace once the cgroups are joined: its root is the cgroup its maker is in."""
    if "cgroup" in setup.kinds:
        syscalls.unshare(namespaces.FLAGS["cgroup"])


def join_cgroup(setup: Setup, step: Step) -> None:
    """Move the calling process: ``0`` means the writer, cgroups(7)."""
    del setup
    fd = os.open(step["source"], os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


def join_namespaces(setup: Setup, step: Step) -> None:
    """Enter all but the mount namespace of a living process and hold its root directory.

    The PID namespace takes effect with the next clone, which is left to the gate: until then the container's
    processes cannot see, let alone trace, the one that holds descriptors of the host (R-02).
    """
    pid, started = step["pid"], step["start_time"]
    pidfd = processes.hold(pid, started)
    if pidfd is None:
        raise OSError(errno.ESRCH, "that process has ended")
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if processes.has_ended(pidfd):
        raise OSError(errno.ESRCH, "that process has ended")
    setup.target = pidfd
    setup.hold_root(root)
    flags = namespaces.flags_of(step["kinds"])
    if flags:
        syscalls.setns(pidfd, flags)
    setup.target_pid_namespace = "pid" in step["kinds"]


def enter_mounts(setup: Setup, step: Step) -> None:
    """Enter the mount namespace of the process that `join_namespaces` holds; ``/`` becomes its root."""
    if setup.target < 0:
        raise OSError(errno.EINVAL, f"process {step['pid']} is not held")
    setup.bind_everything()
    syscalls.setns(setup.target, namespaces.FLAGS["mnt"])
    setup.forget_root()


def go_on_inside(setup: Setup) -> None:
    """Go on as a new process inside the joined PID namespace, a sibling whose parent is the supervisor.

    Returns there; the process outside reports it and ends.
    """
    inside, _ = syscalls.clone3(syscalls.CLONE_PARENT, exit_signal=0)
    if not inside:
        return
    channel.send(setup.report, handshake.HELD + str(inside).encode())
    channel.receive(setup.report, 1)  # the supervisor has written down who it is
    setup.tell_created((inside, 0))
    os._exit(0)


def set_hostname(setup: Setup, step: Step) -> None:
    """Name the UTS namespace."""
    setup.require("uts")
    syscalls.sethostname(step["name"])


def loopback_up(setup: Setup, step: Step) -> None:
    """Bring ``lo`` up."""
    del step
    setup.require("net")
    namespaces.loopback_up()
