"""C functions for a process that is to leave its memory alone.

A supervisor lives as long as its container, and every page it writes to is a page of its own.  An interpreter
writes wherever an object is made, used or let go; these functions take numbers and addresses and give numbers
back, so all that they touch is themselves.  A failure is -1; only ``syscall`` keeps ``errno``, for
ctypes.get_errno().
"""

from __future__ import annotations

import ctypes
import os
import struct

EPOLL_CLOEXEC = 0o2000000
EPOLL_CTL_ADD = 1
EPOLLIN = 1
PR_SET_CHILD_SUBREAPER = 36

EPOLL_EVENT = struct.Struct("=IQ" if os.uname().machine == "x86_64" else "IQ")
"""struct epoll_event, epoll_ctl(2): events and data; packed on x86-64 and nowhere else."""

# PyDLL keeps the interpreter lock: nothing of the interpreter is touched around the call, and in the child of
# clone3 there is nobody who could give the lock back.
_libc = ctypes.PyDLL(None)
_int, _long, _address = ctypes.c_int, ctypes.c_long, ctypes.c_void_p

read = _libc.read
read.argtypes = (_int, _address, _long)
read.restype = _long

write = _libc.write
write.argtypes = (_int, _address, _long)
write.restype = _long

recvmsg = _libc.recvmsg
recvmsg.argtypes = (_int, _address, _int)
recvmsg.restype = _long

epoll_create1 = _libc.epoll_create1
epoll_create1.argtypes = (_int,)

epoll_ctl = _libc.epoll_ctl
epoll_ctl.argtypes = (_int, _int, _int, _address)

epoll_wait = _libc.epoll_wait
epoll_wait.argtypes = (_int, _address, _int, _int)

prctl = _libc.prctl
prctl.argtypes = (_int, _long, _long, _long, _long)

memmove = _libc.memmove
memmove.argtypes = (_address, _address, _long)
memmove.restype = _address

syscall = ctypes.PyDLL(None, use_errno=True).syscall
syscall.argtypes = (_long, _long, _long, _long, _long, _long)
syscall.restype = _long
