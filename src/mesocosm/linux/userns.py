"""A mapping of user and group IDs as the kernel keeps one: a user namespace, user_namespaces(7).

For id-mapped mounts (mount_setattr(2), Linux 5.12) nobody lives in it: it is made by a process that ends at
once, and a descriptor holds it.
"""

from __future__ import annotations

import os

from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_WALL = 0x40000000
"""__WALL of wait(2): also for a child that gives no signal when it ends."""


def make(uid_map: str, gid_map: str) -> int:
    """A descriptor of a new user namespace with these maps, each lines of ``INSIDE OUTSIDE LENGTH``.

    The caller must be single-threaded, have the host's procfs at /proc and CAP_SETUID, CAP_SETGID.  ENOSPC:
    user.max_user_namespaces is reached; EAGAIN: there is no room for one more process; EINVAL: the kernel
    does not take the map.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = -1, -1
    try:
        pid, pidfd = syscalls.clone3(syscalls.CLONE_NEWUSER, exit_signal=0, pidfd=True)
        if pid == 0:
            _wait_for_the_end(reader, writer)
        return _map(_outer_pid(pidfd), uid_map, gid_map)
    finally:
        os.close(writer)
        os.close(reader)
        if pidfd >= 0:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | _WALL)
            os.close(pidfd)


def _wait_for_the_end(reader: int, writer: int) -> NoReturn:
    """The life of the process inside: until its maker has let go, or has died."""
    try:
        os.close(writer)
        os.read(reader, 1)
    finally:
        os._exit(0)


def _map(pid: str, uid_map: str, gid_map: str) -> int:
    for name, content in (("uid_map", uid_map), ("gid_map", gid_map)):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, content.encode())  # one write for all: a map can be written once
        finally:
            os.close(fd)
    return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _outer_pid(pidfd: int) -> str:
    """The pid as /proc has it: ours may be of a PID namespace below (the kernel's pidfd_show_fdinfo)."""
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(fd, 4096).decode().splitlines()
    finally:
        os.close(fd)
    return next(line.split()[1] for line in lines if line.startswith("Pid:"))
