"""The supervisor: one tiny process per container or session, which outlives whoever launched it.

    spare ──asked──► SETTING UP ──HELD──► HELD ── started by the child itself ──► RUNNING ──► exit.json, gone
                         │ child ends       │ killed
                         └─► gone           └─► exit.json

It is the parent of the child and the subreaper of all that the child leaves behind.  It holds the lock that
proves it alive, the read ends of the output, and the socket whose end tells those who wait.  It takes no
orders: the gate is kept by the held child, and signals go to the payload directly.

Memory is paid once per container, and every page of the interpreter that is written to is a page of it.  So
this process does as little as possible, with as few functions as possible: requests, plans and JSON are the
child's, whose memory goes with its ``execve``.
"""

from __future__ import annotations

import _socket
import os
import select
import time

from mesocosm.launch import bare, channel, child, descriptors, handshake, intake
from mesocosm.launch.stdio import Stdio
from mesocosm.linux import processes, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mesocosm.launch.offer import Offer


def be_supervisor(offer: Offer, ahead: int) -> NoReturn:
    """Wait for a request, make its child, and keep it.  The calling process is a fresh fork of the mould.

    ``ahead``: whether it is in new namespaces, for its child.
    """
    # What a payload without a PID namespace of its own leaves behind is ours to reap.
    bare.prctl(bare.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    events = bare.epoll_create1(bare.EPOLL_CLOEXEC)
    bare.epoll_ctl(events, bare.EPOLL_CTL_ADD, descriptors.SIGNALS, offer.ended)
    request = offer.request
    length = bare.recvmsg(offer.requests, request.header, bare.MSG_CMSG_CLOEXEC)
    if length <= 0:
        os._exit(0)  # launcher or zygote are gone
    bare.memmove(request.cgroup, request.first, 4)
    pid = bare.syscall(bare.CLONE3, request.arguments, syscalls.CLONE_ARGS_SIZE, 0, 0, 0)
    refusal = None
    if pid < 0:
        pid, refusal = request.clone_again()
    if pid == 0:
        child.run(offer, length, select.epoll.fromfd(events), refusal, ahead=bool(ahead))
    bare.setns(descriptors.HOME, offer.ahead)
    bare.epoll_wait(events, offer.ended, 1, -1)  # nothing more is touched while nothing happens
    Supervisor(pid, select.epoll.fromfd(events)).serve()


class Supervisor:
    """One payload's keeper."""

    __slots__ = ("_ended", "_events", "_failure", "_held", "_payload", "_report", "_stdio")

    def __init__(self, pid: int, events: select.epoll) -> None:
        self._payload = pid
        self._events = events
        self._report = channel.adopt(descriptors.REPORT)
        self._stdio = Stdio(
            descriptors.INDEX_FILE,
            {
                descriptors.STDOUT: (1, descriptors.STDOUT_FILE),
                descriptors.STDERR: (2, descriptors.STDERR_FILE),
            },
        )
        self._held = False
        self._failure = b"null"
        self._ended: tuple[int, int, int, int] | None = None

    def serve(self) -> NoReturn:
        """Until the payload has ended."""
        while True:
            for fd, _ in self._events.poll():
                if fd == descriptors.SIGNALS:
                    self._reap()
                elif fd == descriptors.REPORT:
                    self._heed()
                else:
                    self._stdio.pump(fd)

    def _heed(self) -> None:
        """A note of a child that joins others, which may want an answer at once."""
        note = self._note()
        if note:
            self._take_in(note)
        elif note is not None:
            self._events.unregister(descriptors.REPORT)

    def _note(self) -> bytes | None:
        """The next note of the child: None when there is none now, empty when there will be none."""
        try:
            note: bytes = self._report.recv(handshake.LIMIT, _socket.MSG_DONTWAIT)
        except OSError:
            return None
        return note

    def _take_in(self, note: bytes) -> None:
        kind, rest = note[:1], note[1:]
        if kind == handshake.HELD:
            self._held = True
            if int(rest) != self._payload:
                self._watch_another(int(rest))
        elif kind == handshake.FAILED:
            self._failure = rest
        elif kind == handshake.ENDED:
            code, number, core, at = map(int, rest.split())
            self._ended = (code, number, core, at)

    def _watch_another(self, pid: int) -> None:
        """The child that set up goes on as another process, inside a container's PID namespace."""
        self._payload = pid
        intake.write_identities(
            descriptors.SESSION, intake.identity_of_self(), (pid, processes.start_time(pid))
        )
        self._report.send(handshake.HELD, _socket.MSG_NOSIGNAL)

    def _reap(self) -> None:
        os.read(descriptors.SIGNALS, 128)
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if ended is None:
                return
            while note := self._note():
                self._take_in(note)
            if ended.si_pid == self._payload:
                self._finish(ended.si_code, ended.si_status)

    def _finish(self, how: int, status: int) -> NoReturn:
        """Write down how it ended, let those who wait know, and go."""
        if not self._held:
            self._forget("process.json", "lock", "socket", "gate")
            os._exit(0)
        self._stdio.drain()
        exited = how == os.CLD_EXITED
        code, number, core, at = self._ended or (
            status if exited else -1,
            0 if exited else status,
            how == os.CLD_DUMPED,
            time.time_ns(),
        )
        record = b'{"version":1,"code":%d,"signal":%d,"core":%b,"at":%d,"lost_output":%d,"failure":%b}\n'
        fd = os.open(".exit.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=descriptors.SESSION)
        os.write(fd, record % (code, number, (b"false", b"true")[core], at, self._stdio.lost, self._failure))
        os.rename(".exit.json", "exit.json", src_dir_fd=descriptors.SESSION, dst_dir_fd=descriptors.SESSION)
        os.close(descriptors.SOCKET)
        # Renamed first, synced second: whoever reads it in this boot reads it from memory.
        os.fsync(fd)
        os.fsync(descriptors.SESSION)
        self._forget("socket", "gate")
        os._exit(0)

    def _forget(self, *names: str) -> None:
        for name in names:
            try:  # noqa: SIM105  (contextlib is not for the launch side)
                os.unlink(name, dir_fd=descriptors.SESSION)
            except OSError:
                pass
