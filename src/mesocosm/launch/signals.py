"""Signal masks, dispositions and signalfd(2), without the conversions of the ``signal`` module."""

from __future__ import annotations

import ctypes
import os
import signal

_SIGSET_BYTES = 128  # sigset_t of glibc and musl
_EVERY = b"\xff" * _SIGSET_BYTES
_NONE = bytes(_SIGSET_BYTES)
_RESERVED = frozenset((signal.SIGKILL, signal.SIGSTOP, 32, 33))  # glibc keeps 32 and 33 for itself

_libc = ctypes.PyDLL(None, use_errno=True)
_sigmask = _libc.sigprocmask
_sigmask.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_signalfd = _libc.signalfd
_signalfd.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)

EVERY = frozenset(range(1, 65)) - _RESERVED
"""Every signal that can be blocked or handled."""


def block_all() -> None:
    """Block every signal that can be blocked."""
    _sigmask(signal.SIG_SETMASK, _EVERY, None)


def unblock_all() -> None:
    """Block none."""
    _sigmask(signal.SIG_SETMASK, _NONE, None)


def default_all() -> None:
    """Every signal at its default action, as a program expects it at its start, signal(7)."""
    for number in EVERY:
        signal.signal(number, signal.SIG_DFL)


def open_signalfd(number: int) -> int:
    """A non-blocking descriptor that is readable while the blocked signal ``number`` is pending."""
    wanted = (1 << (number - 1)).to_bytes(_SIGSET_BYTES, "little")
    fd: int = _signalfd(-1, wanted, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd
