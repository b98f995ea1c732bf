"""Namespaces: what they are called, how one is opened, entered and compared.  namespaces(7)."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct

from mesocosm.linux import syscalls
from mesocosm.linux.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)

FLAGS = {
    "user": CLONE_NEWUSER,
    "cgroup": CLONE_NEWCGROUP,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "net": CLONE_NEWNET,
    "pid": CLONE_NEWPID,
    "time": CLONE_NEWTIME,
    "mnt": CLONE_NEWNS,
}
"""Kind, which is its name in ``/proc/PID/ns``, to CLONE flag; in the order in which to enter them.

The user namespace comes first, because it owns the others (attack R-36), the mount namespace last, because
the paths of the others are gone with it.
"""

OCI_NAMES = {"mount": "mnt", "network": "net"}
"""The OCI runtime specification's words where they differ from ours."""

_NSFS_MAGIC = 0x6E736673
_NS_GET_NSTYPE = 0xB703
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def flags_of(kinds: list[str] | tuple[str, ...]) -> int:
    """The CLONE flags of several kinds in one number."""
    result = 0
    for kind in kinds:
        result |= FLAGS[kind]
    return result


def open_namespace(path: str | bytes, kind: str) -> int:
    """A descriptor of the namespace at ``path``, which must be one and of this ``kind`` (attack R-36).

    EINVAL for anything else.  It is looked at before it is opened: a FIFO would block, a device would act.
    """
    look = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if syscalls.filesystem_type(look) != _NSFS_MAGIC:
            raise OSError(errno.EINVAL, "not a namespace", path)
        fd = os.open(f"/proc/self/fd/{look}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(look)
    found = kind_of(fd)
    if found != kind:
        os.close(fd)
        raise OSError(errno.EINVAL, f"a {found} namespace, not a {kind} namespace", path)
    return fd


def kind_of(fd: int) -> str:
    """The kind of an open namespace, ioctl_ns(2) NS_GET_NSTYPE."""
    flag = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    for kind, known in FLAGS.items():
        if flag == known:
            return kind
    return f"0x{flag:x}"


def enter(fd: int, kind: str) -> None:
    """Enter an open namespace.  For "pid" it holds for children only; "mnt" also changes root and cwd to its
    root.
    """
    syscalls.setns(fd, FLAGS[kind])


def identity(kind: str, pid: int | str = "self") -> tuple[int, int]:
    """What tells one namespace from another: device and inode of ``/proc/PID/ns/KIND``."""
    status = os.stat(f"/proc/{pid}/ns/{kind}")  # noqa: PTH116
    return status.st_dev, status.st_ino


def loopback_up() -> None:
    """Bring ``lo`` of the calling process' network namespace up, netdevice(7); the kernel adds its
    addresses.
    """
    request = struct.pack("16sH22x", b"lo", _IFF_UP)
    # The C socket: the socket module brings enum and selectors, megabytes in every supervisor.
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, request)
    finally:
        control.close()
