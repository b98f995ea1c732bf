"""C functions for a process that is to leave its memory alone.

A supervisor lives as long as its container, and every page it writes to is a page of its own.  An interpreter
writes wherever an object is made, used or let go; these functions take numbers and addresses and give numbers
back, so all that they touch is themselves.  A failure is -1, and nobody keeps ``errno``.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


EPOLL_CLOEXEC = 0o2000000
EPOLL_CTL_ADD = 1
EPOLLIN = 1
PR_SET_CHILD_SUBREAPER = 36
MSG_CMSG_CLOEXEC = 0x40000000
CLONE3 = 435
"""Its number, the same on every architecture."""

EPOLL_EVENT = struct.Struct("=IQ" if os.uname().machine == "x86_64" else "IQ")
"""struct epoll_event, epoll_ctl(2): events and data; packed on x86-64 and nowhere else."""

# PyDLL keeps the interpreter lock: nothing of the interpreter is touched around the call, and in the child of
# clone3 there is nobody who could give the lock back.
_libc = ctypes.PyDLL(None)


def _bind(name: str, arguments: int) -> Callable[..., int]:
    """A function of so many integers or addresses; what it answers fits an int.  One type serves all."""
    function = _libc[name]
    function.argtypes = (ctypes.c_long,) * arguments
    return function


read = _bind("read", 3)
write = _bind("write", 3)
recvmsg = _bind("recvmsg", 3)
epoll_create1 = _bind("epoll_create1", 1)
epoll_ctl = _bind("epoll_ctl", 4)
epoll_wait = _bind("epoll_wait", 4)
prctl = _bind("prctl", 5)
setns = _bind("setns", 2)
memmove = _bind("memmove", 3)
syscall = _bind("syscall", 6)
