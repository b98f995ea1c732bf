"""An init: the first process stays, forwards signals and reaps; the payload is its child.

It tells the supervisor how the payload ended, because the first process of a PID namespace cannot end by a
signal of its own.
"""

from __future__ import annotations

import os
import time

from mesocosm.launch import channel, handshake, signals
from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mesocosm.launch.channel import Socket

_OURS = frozenset(
    (
        signals.SIGCHLD,
        signals.SIGSEGV,
        signals.SIGBUS,
        signals.SIGILL,
        signals.SIGFPE,
        signals.SIGTRAP,
        signals.SIGABRT,
    )
)
"""Not forwarded: they tell of our children, or of ourselves."""


def stay_behind(report: Socket, client: Socket) -> None:
    """Fork; return in the payload-to-be and never in the init."""
    signals.block_all()
    pid, _ = syscalls.clone3(0, exit_signal=signals.SIGCHLD)
    if pid:
        client.close()
        _serve(report, pid)
    os.setsid()
    signals.unblock_all()


def _serve(report: Socket, payload: int) -> NoReturn:
    syscalls.set_name("init")
    for fd in (0, 1, 2):
        os.close(fd)
    while True:
        _reap(report, payload)
        number = signals.wait_any()
        if number not in _OURS:
            try:
                os.kill(payload, number)
            except OSError:
                continue


def _reap(report: Socket, payload: int) -> None:
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return
        if ended is None:
            return
        if ended.si_pid == payload:
            channel.send(report, handshake.ENDED + _fate(ended.si_code, ended.si_status))
            os._exit(0)


def _fate(how: int, status: int) -> bytes:
    exited = how == os.CLD_EXITED
    code, number = (status, 0) if exited else (-1, status)
    return b"%d %d %d %d" % (code, number, how == os.CLD_DUMPED, time.time_ns())
