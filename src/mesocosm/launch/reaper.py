"""An init: the first process stays, forwards signals and reaps; the payload is its child.

It tells the supervisor how the payload ended, because a first process of a PID namespace cannot end by a
signal of its own.
"""

from __future__ import annotations

import os
import signal
import time

from mesocosm.launch import channel, handshake, signals
from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mesocosm.launch.child import Setup

_SYNCHRONOUS = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGABRT)
)


def stay_behind(setup: Setup) -> None:
    """Fork; return in the payload-to-be and never in the init."""
    seen, held = os.pipe2(os.O_CLOEXEC)
    signals.block_all()
    pid, _ = syscalls.clone3(0, exit_signal=signal.SIGCHLD)
    if pid:
        os.close(held)
        _serve(setup, pid, seen)
    os.close(seen)
    os.setsid()
    signals.unblock_all()


def _serve(setup: Setup, payload: int, seen: int) -> NoReturn:
    syscalls.set_name("init")
    for fd in (0, 1, 2):
        os.close(fd)
    # End of file: execve has happened, or the one that was to do it has reported why not.
    os.read(seen, 1)
    os.close(seen)
    channel.send(setup.report, handshake.encode("started"))
    while True:
        _reap(setup, payload)
        got = signal.sigwaitinfo(signals.EVERY)
        if got.si_signo not in _SYNCHRONOUS and got.si_signo != signal.SIGCHLD:
            try:
                os.kill(payload, got.si_signo)
            except OSError:
                continue


def _reap(setup: Setup, payload: int) -> None:
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return
        if ended is None:
            return
        if ended.si_pid == payload:
            channel.send(setup.report, handshake.encode("ended", **fate(ended.si_code, ended.si_status)))
            os._exit(0)


def fate(code: int, status: int) -> dict[str, int | bool]:
    """The fields of ``ended`` for a ``siginfo_t`` of waitid(2)."""
    exited = code == os.CLD_EXITED
    return {
        "code": status if exited else -1,
        "signal": 0 if exited else status,
        "core": code == os.CLD_DUMPED,
        "at": time.time_ns(),
    }
