"""The zygote: one warm, single-threaded process that forks supervisors.

It is started by exec, inside a mount namespace whose whole tree is read-only, so that the interpreter and
every library it has mapped stay unwritable through ``/proc/PID/exe`` and ``map_files`` whatever a container
may do (CVE-2019-5736, attack R-01).  With everything imported it returns to the host's mount namespace, where
binds and writable mounts are possible.

All processes share one socket: spare supervisors, forked ahead, wait on it for the next request, so that all
that a request has to wait for is its own child.  A spare ends with its launcher; a supervisor that has a
container does not.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import sys

from mesocosm.launch import channel, descriptors, mould, signals
from mesocosm.launch.offer import Offer
from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mesocosm.launch.channel import Socket

SPARES = 3
QUIET = 50
"""Milliseconds without a request after which a taken spare is replaced, if another is left: a fork in the
middle of a launch would compete with it."""
HIGH = 100
"""Our own descriptors lie from here on, where a supervisor closes them in one call."""


class Zygote:
    """The fork server: it keeps spare supervisors, and learns when one is taken or has ended."""

    def __init__(self, requests: Socket) -> None:
        self._requests = requests
        self._taken, take = _high_pipe()
        null = _high(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        descriptors.place(_high(syscalls.pidfd_open(os.getpid())), descriptors.HOME)
        self._spares: set[int] = set()
        self._mould = self._fork_mould(Offer(requests, take=take, null=null))

    def _fork_mould(self, offer: Offer) -> int:
        orders, self._orders = _high_pipe()
        self._made, made = _high_pipe()
        pid, _ = syscalls.clone3(0, exit_signal=signals.SIGCHLD)
        if not pid:
            for fd in (self._orders, self._made, self._taken):
                os.close(fd)
            mould.cast(orders, made, offer)
        os.close(orders)
        os.close(made)
        return pid

    def serve(self) -> NoReturn:
        """Keep spares ready until the launcher closes its end."""
        poll = select.poll()
        poll.register(self._requests.fileno(), 0)
        for fd in (self._taken, descriptors.SIGNALS):
            poll.register(fd, select.POLLIN)
        while True:
            self._order_spare(1)
            ready = poll.poll(QUIET if len(self._spares) < SPARES else None)
            if not ready:
                self._order_spare(SPARES)
            for fd, _ in ready:
                if fd == self._requests.fileno():
                    os._exit(0)
                elif fd == descriptors.SIGNALS:
                    self._reap()
                else:
                    self._spares.discard(int.from_bytes(os.read(self._taken, 4), "little"))

    def _order_spare(self, wanted: int) -> None:
        """One if there are fewer than ``wanted``, and no more, so that requests are heard in between."""
        if len(self._spares) < wanted:
            os.write(self._orders, b"1")
            made = os.read(self._made, 4)
            if not made:
                os._exit(1)
            self._spares.add(int.from_bytes(made, "little"))

    def _reap(self) -> None:
        os.read(descriptors.SIGNALS, 128)
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid == self._mould:
                os._exit(1)
            self._spares.discard(ended.si_pid)


def _high(fd: int) -> int:
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(fd)
    return moved


def _high_pipe() -> tuple[int, int]:
    source, sink = os.pipe2(os.O_CLOEXEC)
    return _high(source), _high(sink)


def main(requests_fd: int, mounts_fd: int, root_fd: int) -> NoReturn:
    """Return to the host's mounts and serve.

    Requests come by the first socket; ``mounts_fd`` is the host's mount namespace, ``root_fd`` the launcher's
    root directory in it.
    """
    syscalls.set_dumpable(0)
    syscalls.setns(mounts_fd, syscalls.CLONE_NEWNS)
    os.fchdir(root_fd)
    os.chroot(".")
    os.close(mounts_fd)
    os.close(root_fd)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1):  # what they were lies on a mount of the read-only view
        os.dup2(null, number)
    os.close(null)
    signals.default_all()
    signals.block_all()
    syscalls.set_name("mesocosm")
    requests = channel.adopt(_high(requests_fd))
    descriptors.place(_high(signals.open_signalfd(signals.SIGCHLD)), descriptors.SIGNALS)
    sys.meta_path.clear()
    gc.collect()
    gc.freeze()
    gc.disable()  # children are not long enough interpreters to have anything to collect
    Zygote(requests).serve()
