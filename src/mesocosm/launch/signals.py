"""Signals through the C library.

The ``signal`` module brings ``enum``, which would lie in the memory of every supervisor, and its masks are
sets.  Numbers are those of x86-64, arm64 and riscv64, signal(7).
"""

from __future__ import annotations

import ctypes
import os

SIGHUP = 1
SIGILL = 4
SIGTRAP = 5
SIGABRT = 6
SIGBUS = 7
SIGFPE = 8
SIGKILL = 9
SIGSEGV = 11
SIGCHLD = 17
SIGSTOP = 19

_SIG_DFL = 0
_SIG_SETMASK = 2
_SIGSET_BYTES = 128  # sigset_t of glibc and musl
_EVERY = b"\xff" * _SIGSET_BYTES
_NONE = bytes(_SIGSET_BYTES)
_UNTOUCHABLE = (SIGKILL, SIGSTOP, 32, 33)  # the C library keeps 32 and 33 for itself

_libc = ctypes.PyDLL(None, use_errno=True)
_sigmask = _libc.sigprocmask
_sigmask.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_signal = _libc.signal
_signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_signal.restype = ctypes.c_void_p
_signalfd = _libc.signalfd
_signalfd.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_sigwait = _libc.sigwait
_sigwait.argtypes = (ctypes.c_char_p, ctypes.c_void_p)


def block_all() -> None:
    """Block every signal that can be blocked."""
    _sigmask(_SIG_SETMASK, _EVERY, None)


def unblock_all() -> None:
    """Block none."""
    _sigmask(_SIG_SETMASK, _NONE, None)


def default_all() -> None:
    """Every signal at its default action, as a program expects it at its start, signal(7)."""
    for number in range(1, 65):
        if number not in _UNTOUCHABLE:
            _signal(number, _SIG_DFL)


def wait_any() -> int:
    """Wait for one of the blocked signals and take it."""
    number = ctypes.c_int()
    _sigwait(_EVERY, ctypes.addressof(number))
    return number.value


def open_signalfd(number: int) -> int:
    """A non-blocking descriptor that is readable while the blocked signal ``number`` is pending."""
    wanted = (1 << (number - 1)).to_bytes(_SIGSET_BYTES, "little")
    fd: int = _signalfd(-1, wanted, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd
