"""A process stopped at each system call that changes something, by ptrace(2) and a seccomp filter.

    watch(work)                                   # every such call, in order
    watch(work, at=17, act=Kill())                # SIGKILL before the 17th takes effect
    watch(work, at=17, act=Fail(errno.EIO))       # the 17th fails; with ``on=True`` all later ones too

``work`` runs in a child forked from here, so nothing is imported anew; this process must have one thread.
All threads of the child, and all processes it starts, are followed to their ends, in one common count; it is
the child that is killed.  Writes to sockets, pipes and event files change
nothing that lasts and do not count.  x86-64 only: the registers are.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mesocosm.linux import syscalls
from mesocosm.linux.syscall_table import TABLES

NUMBERS = TABLES["x86_64"]
_CHANGING = """
    write pwrite64 writev pwritev pwritev2 ftruncate truncate fallocate copy_file_range sendfile
    rename renameat renameat2 unlink unlinkat mkdir mkdirat rmdir link linkat symlink symlinkat
    mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utimensat
    setxattr lsetxattr fsetxattr fsync fdatasync sync_file_range openat2
    mount umount2 fsconfig fsmount move_mount open_tree mount_setattr
"""
_WITH_DATA = {"write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile"}
STORING = {*_WITH_DATA, "ftruncate", "fallocate", "rename", "renameat", "renameat2", "mkdir", "mkdirat"}
STORING |= {"link", "linkat", "symlink", "symlinkat", "fsync", "fdatasync", "openat", "openat2"}
"""Calls that a full or failing disk fails."""

_TRACEME, _CONT, _GETREGS, _SETREGS, _SETOPTIONS = 0, 7, 12, 13, 0x4200
_OPTIONS = 0x2 | 0x4 | 0x8 | 0x80 | 0x100000  # fork, vfork, clone, seccomp events; killed with its tracer
_EVENT_SECCOMP = 7
_WALL = 0x40000000
_RAX, _ORIG_RAX, _ARGUMENTS = 10, 15, (14, 13, 12, 7, 9, 8)  # struct user_regs_struct: rdi rsi rdx r10 r8 r9
_REGISTERS = struct.Struct("27Q")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Call(NamedTuple):
    """One system call: its name, and the file it is about where a descriptor tells."""

    name: str
    file: str


@dataclass(frozen=True)
class Kill:
    """SIGKILL; the call has no effect."""


@dataclass(frozen=True)
class Fail:
    """The call has no effect and gives this errno; ``on``: so do all later ones that store something."""

    errno: int
    on: bool = False


class Watched(NamedTuple):
    """``calls`` seen, and the child's wait status."""

    calls: list[Call]
    status: int


def watch(work: Callable[[], int], *, at: int = 0, act: Kill | Fail | None = None) -> Watched:
    """Run ``work`` in a child, whose exit status it returns, and act at call number ``at`` (from 1 on)."""
    child = os.fork()
    if child == 0:
        _be_watched(work)
    os.waitpid(child, _WALL)
    _ptrace(_SETOPTIONS, child, _OPTIONS)
    _ptrace(_CONT, child, 0)
    return _Watch(child, at, act).run()


class _Watch:
    def __init__(self, child: int, at: int, act: Kill | Fail | None) -> None:
        self._child, self._at, self._act = child, at, act
        self._calls: list[Call] = []
        self._ended = 0

    def run(self) -> Watched:
        """Until the child has ended, and whoever it started: without us their calls would have no effect."""
        while True:
            try:
                pid, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                return Watched(self._calls, self._ended)
            if not os.WIFSTOPPED(status):
                if pid == self._child:
                    self._ended = status
                continue
            event, stopped = status >> 16, os.WSTOPSIG(status)
            if event == _EVENT_SECCOMP:
                self._met(pid)
            passed_on = 0 if event or stopped in (signal.SIGSTOP, signal.SIGTRAP) else stopped
            try:
                _ptrace(_CONT, pid, passed_on)
            except ProcessLookupError:
                continue  # killed meanwhile

    def _met(self, pid: int) -> None:
        try:
            registers = _registers(pid)
        except ProcessLookupError:
            return
        call = _changing(pid, registers)
        if call is None:
            return
        failing = isinstance(self._act, Fail)
        if failing and call.name not in STORING:
            return
        self._calls.append(call)
        number = len(self._calls)
        if isinstance(self._act, Kill) and number == self._at:
            os.kill(self._child, signal.SIGKILL)
        elif (
            isinstance(self._act, Fail)
            and self._at
            and (number == self._at or (self._act.on and number > self._at))
        ):
            registers[_ORIG_RAX] = (1 << 64) - 1
            registers[_RAX] = (1 << 64) - self._act.errno
            _set_registers(pid, registers)


def _be_watched(work: Callable[[], int]) -> None:
    code = 70
    try:
        _ptrace(_TRACEME, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        syscalls.seccomp_set_filter(_filter())
        code = work()
    finally:
        os._exit(code)


def _filter() -> bytes:
    """BPF: stop at the calls above, ``openat`` only when it makes or empties something."""
    allow, trace = 0x7FFF0000, 0x7FF00000
    wanted = [NUMBERS[name] for name in _CHANGING.split()]
    last = len(wanted) + 4
    program = [(0x20, 0, 0, 0)]  # the call's number
    for index, number in enumerate(wanted, start=1):
        program.append((0x15, last - index, 0, number))
    program.append((0x15, 0, 2, NUMBERS["openat"]))
    program.append((0x20, 0, 0, 16 + 2 * 8))  # its flags
    program.append((0x45, 1, 0, os.O_CREAT | os.O_TRUNC))
    program.append((0x06, 0, 0, allow))
    program.append((0x06, 0, 0, trace))
    return b"".join(struct.pack("HBBI", *one) for one in program)


def _changing(pid: int, registers: list[int]) -> Call | None:
    name = _NAMES.get(registers[_ORIG_RAX], "")
    arguments = [registers[index] for index in _ARGUMENTS]
    if name == "openat2":
        with open(f"/proc/{pid}/mem", "rb") as memory:
            memory.seek(arguments[2])
            (flags,) = struct.unpack("Q", memory.read(8))
        return Call(name, "") if flags & (os.O_CREAT | os.O_TRUNC) else None
    if name in _WITH_DATA or name in ("fsync", "fdatasync", "ftruncate", "fchmod"):
        file = _file(pid, arguments[0])
        return Call(name, file) if file.startswith("/") and not file.startswith("/dev/") else None
    if name == "fsconfig" and arguments[1] != 6:  # FSCONFIG_CMD_CREATE
        return None
    return Call(name, _text(pid, arguments[_PATH_AT[name]]) if name in _PATH_AT else "")


_PATH_AT = {"rename": 1, "mkdir": 0, "unlink": 0, "rmdir": 0, "chmod": 0, "openat": 1, "unlinkat": 1}
_PATH_AT |= {"mkdirat": 1, "umount2": 0, "renameat2": 3, "renameat": 3}
"""Which argument is the path that a call changes."""


def _text(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(address)
        return os.fsdecode(memory.read1(256).partition(b"\0")[0])


def _file(pid: int, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return ""


_NAMES = {number: name for name, number in NUMBERS.items()}


def _registers(pid: int) -> list[int]:
    buffer = ctypes.create_string_buffer(_REGISTERS.size)
    _ptrace(_GETREGS, pid, ctypes.addressof(buffer))
    return list(_REGISTERS.unpack(buffer.raw))


def _set_registers(pid: int, values: list[int]) -> None:
    buffer = ctypes.create_string_buffer(_REGISTERS.pack(*values), _REGISTERS.size)
    _ptrace(_SETREGS, pid, ctypes.addressof(buffer))


def _ptrace(request: int, pid: int, data: int) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        number = ctypes.get_errno()
        if number == errno.ESRCH:
            raise ProcessLookupError(number, "tracee")
        raise OSError(number, f"ptrace {request}")
