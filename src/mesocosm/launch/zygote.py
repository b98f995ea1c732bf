"""The zygote: one warm, single-threaded process that forks supervisors.

It is started by exec, inside a mount namespace whose whole tree is read-only, so that the interpreter and
every library it has mapped stay unwritable through ``/proc/PID/exe`` and ``map_files`` whatever a container
may do (CVE-2019-5736, attack R-01).  With everything imported it returns to the host's mount namespace, where
binds and writable mounts are possible.

All processes share one socket: a spare supervisor, forked ahead, waits on it for the next request, so that no
fork lies between a request and its container.  A spare dies with the zygote; a supervisor that has a
container does not.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys

from mesocosm.launch import channel, handshake, signals
from mesocosm.launch.supervisor import Request, supervise
from mesocosm.linux import processes, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SPARES = 2
QUIET = 5
"""Milliseconds without a request after which a taken spare is replaced, if another is left: a fork in the
middle of a launch would compete with it."""


class Zygote:
    """The fork server."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._taken, self._take = os.pipe2(os.O_CLOEXEC)
        self._spares = 0

    def serve(self) -> NoReturn:
        """Keep spares ready until the launcher closes its end."""
        poll = select.poll()
        poll.register(self._requests.fileno(), 0)
        poll.register(self._taken, select.POLLIN)
        while True:
            if not self._spares:
                self._fork_spare()
            ready = poll.poll(QUIET if self._spares < SPARES else None)
            if not ready:
                self._fork_spare()
            for fd, _ in ready:
                if fd != self._taken:
                    os._exit(0)
                self._spares -= len(os.read(self._taken, 64))

    def _fork_spare(self) -> None:
        parent = os.getpid()
        pid, _ = syscalls.clone3(0, exit_signal=signal.SIGCHLD)
        if not pid:
            self._be_spare(parent)
        self._spares += 1

    def _be_spare(self, parent: int) -> NoReturn:
        syscalls.set_pdeathsig(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        os.close(self._taken)
        os.setsid()
        syscalls.set_child_subreaper(1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        started_at = processes.start_time(os.getpid())
        reaped = signals.open_signalfd(signal.SIGCHLD)
        message, descriptors = channel.receive(self._requests)
        if not message:
            os._exit(0)
        syscalls.set_pdeathsig(0)
        os.write(self._take, b"x")
        os.close(self._take)
        self._requests.close()
        try:
            request = Request(handshake.decode(message, "launch"), descriptors)
        except handshake.Garbled:
            os._exit(1)
        supervise(request, reaped, started_at, self._null)


def main(requests_fd: int, mounts_fd: int, root_fd: int) -> NoReturn:
    """Return to the host's mounts and serve.

    ``mounts_fd`` is the host's mount namespace, ``root_fd`` the launcher's root directory in it.
    """
    syscalls.set_dumpable(0)
    syscalls.setns(mounts_fd, syscalls.CLONE_NEWNS)
    os.fchdir(root_fd)
    os.chroot(".")
    os.close(mounts_fd)
    os.close(root_fd)
    signals.default_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended supervisors are nobody's zombies
    signals.block_all()
    syscalls.set_name("mesocosm")
    os.set_inheritable(requests_fd, False)
    zygote = Zygote(channel.adopt(requests_fd))
    sys.meta_path.clear()
    gc.collect()
    gc.freeze()
    zygote.serve()
