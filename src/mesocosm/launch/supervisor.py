"""The supervisor: one tiny process per container or session, which outlives whoever launched it.

    spare ──launch──► SETTING UP ──ready──► HELD ──start──► STARTING ──execve──► RUNNING ──► exit.json, gone
                          │ failed            │ killed          │ failed
                          └─► reported, gone  └─► exit.json     └─► exit.json with the failure

It holds an flock as proof that it lives, the gate of the held child, the read ends of its output, and a
socket that takes ``start``, ``signal`` and ``wait``.  It is the child subreaper of everything the payload
leaves behind.  It knows no paths: the launcher hands it descriptors.

Memory is paid once per container, so this process does little and keeps less: the plan is read by the child,
and the child's work dirties the child's pages.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct

from mesocosm.launch import channel, child, handshake
from mesocosm.launch.reaper import fate
from mesocosm.launch.stdio import Stdio
from mesocosm.linux import namespaces, processes, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

VERSION = 1
MOST_CLIENTS = 64

_CLONE_KINDS = ("mnt", "pid", "ipc", "uts", "net", "time")
_PEER = struct.Struct("3i")


class Request:
    """A ``launch`` message with its descriptors by name."""

    __slots__ = ("descriptors", "namespaces", "timing")

    def __init__(self, message: dict[str, Any], descriptors: list[int]) -> None:
        names = message["descriptors"]
        if len(names) != len(descriptors) or not set(handshake.DESCRIPTORS[:6]) <= set(names):
            raise handshake.Garbled("descriptors and their names differ")
        self.descriptors: dict[str, int] = dict(zip(names, descriptors, strict=True))
        self.namespaces: list[str] = message["namespaces"]
        self.timing: bool = message["timing"]


class Supervisor:
    """One payload's keeper."""

    __slots__ = (
        "_channel",
        "_clients",
        "_failure",
        "_fate",
        "_identity",
        "_listener",
        "_lock",
        "_payload",
        "_poll",
        "_report",
        "_session",
        "_setter",
        "_started",
        "_starters",
        "_state",
        "_stdio",
        "_waiters",
    )

    def __init__(self, request: Request, reaped: int, started_at: int) -> None:
        descriptors = request.descriptors
        self._channel: socket.socket | None = channel.adopt(descriptors["channel"])
        self._session = descriptors["session"]
        self._identity = [os.getpid(), started_at]
        self._state = "setting up"
        self._payload = [0, 0]
        self._setter = 0
        self._failure: dict[str, Any] | None = None
        self._fate: dict[str, Any] | None = None
        self._clients: dict[int, socket.socket] = {}
        self._starters: list[socket.socket] = []
        self._waiters: list[socket.socket] = []
        self._poll = select.poll()
        self._poll.register(reaped, select.POLLIN)
        self._stdio = Stdio(descriptors["index"])

    # --- beginning ------------------------------------------------------------------------------------------

    def launch(self, request: Request, null: int) -> None:
        """Take the lock, open the socket, make the child.  Raises OSError; nothing runs then."""
        descriptors = request.descriptors
        self._lock = os.open(
            "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._session
        )
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._listener = self._listen()
        out_source, out = self._stdio.open(1, descriptors["stdout"])
        err_source, err = self._stdio.open(2, descriptors["stderr"])
        self._report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stdin = descriptors.get("stdin", null)
        kinds = [kind for kind in request.namespaces if kind in _CLONE_KINDS]
        pid, _ = syscalls.clone3(
            namespaces.flags_of(kinds), exit_signal=signal.SIGCHLD, cgroup_fd=descriptors.get("cgroup")
        )
        if not pid:
            unwanted = (self._lock, self._listener.fileno(), self._report.fileno(), descriptors["channel"])
            child.run(theirs, descriptors["plan"], (stdin, out, err), unwanted, timing=request.timing)
        self._setter = pid
        self._payload = [pid, processes.start_time(pid)]
        theirs.close()
        for fd in {out, err, stdin, descriptors["plan"], descriptors.get("cgroup", out)}:
            os.close(fd)
        for fd in (out_source, err_source, self._report.fileno(), self._listener.fileno()):
            self._poll.register(fd, select.POLLIN)
        self._write_json("process.json", {"supervisor": self._identity, "payload": self._payload})
        assert self._channel is not None
        self._poll.register(self._channel.fileno(), 0)
        self._tell(handshake.encode("forked", supervisor=self._identity, payload=self._payload))

    def _listen(self) -> socket.socket:
        # A path through the descriptor: sun_path has 108 bytes, a session's directory may have more.
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        os.umask(0o177)
        listener.bind(f"/proc/self/fd/{self._session}/socket")
        listener.listen(MOST_CLIENTS)
        return listener

    def _write_json(self, name: str, content: dict[str, Any]) -> int:
        """Put a whole file in the session's directory; a descriptor of it."""
        temporary = f".{name}"
        fd = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
            dir_fd=self._session,
        )
        os.write(fd, json.dumps({"version": VERSION, **content}).encode())
        os.rename(temporary, name, src_dir_fd=self._session, dst_dir_fd=self._session)
        return fd

    def refuse(self, error: BaseException) -> NoReturn:
        """Say why nothing was launched, and end."""
        code = error.errno or 0 if isinstance(error, OSError) else 0
        detail = str(error.strerror if isinstance(error, OSError) else error)
        self._failure = {"step": -1, "errno": code, "detail": detail, "status": child.SETUP_FAILED}
        self._tell(handshake.encode("failed", **self._failure))
        os._exit(1)

    # --- the loop -------------------------------------------------------------------------------------------

    def serve(self) -> NoReturn:
        """Until the payload has ended."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._report.fileno():
                    self._hear_child()
                elif fd == self._listener.fileno():
                    self._accept()
                elif fd in self._clients:
                    self._hear_client(self._clients[fd])
                elif self._channel is not None and fd == self._channel.fileno():
                    self._launcher_left()
                elif self._stdio.owns(fd):
                    if not self._stdio.pump(fd):
                        self._poll.unregister(fd)
                else:
                    self._reap(fd)

    def _hear_child(self) -> None:
        try:
            data, descriptors = channel.receive(self._report)
        except ConnectionResetError:
            data, descriptors = b"", []
        for fd in descriptors:
            os.close(fd)
        if not data:
            self._poll.unregister(self._report.fileno())
            if self._state == "starting":
                self._running()
            return
        message = handshake.decode(data, "ready", "failed", "started", "ended")
        {"ready": self._held, "failed": self._failed, "started": self._init_started, "ended": self._ended}[
            message.pop("kind")
        ](message)

    def _held(self, message: dict[str, Any]) -> None:
        self._state = "held"
        if message["pid"]:
            self._payload = [message["pid"], processes.start_time(message["pid"])]
            os.close(
                self._write_json("process.json", {"supervisor": self._identity, "payload": self._payload})
            )
        created = handshake.encode(
            "created", payload=self._payload, warnings=message["warnings"], timing=message["timing"]
        )
        self._tell(created)
        self._forget_launcher()

    def _failed(self, message: dict[str, Any]) -> None:
        self._failure = message
        if self._state == "setting up":
            self._tell(handshake.encode("failed", **message))
        for client in self._starters:
            self._answer(client, handshake.encode("failed", **message))
        self._starters.clear()

    def _init_started(self, message: dict[str, Any]) -> None:
        del message
        if self._failure is None:
            self._running()

    def _running(self) -> None:
        self._state = "running"
        for client in self._starters:
            self._answer(client, handshake.encode("done"))
        self._starters.clear()

    def _ended(self, message: dict[str, Any]) -> None:
        self._fate = message

    def _launcher_left(self) -> None:
        """Nobody waits for what is being set up: undo it."""
        self._forget_launcher()
        self._kill(signal.SIGKILL)

    def _forget_launcher(self) -> None:
        if self._channel is not None:
            self._poll.unregister(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _tell(self, message: bytes) -> None:
        if self._channel is None:
            return
        try:
            channel.send(self._channel, message)
        except OSError:
            return

    # --- clients --------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        if _PEER.unpack(peer)[1] not in (0, os.geteuid()) or len(self._clients) >= MOST_CLIENTS:
            client.close()
            return
        client.setblocking(False)
        self._clients[client.fileno()] = client
        self._poll.register(client.fileno(), select.POLLIN)

    def _hear_client(self, client: socket.socket) -> None:
        try:
            data, descriptors = channel.receive(client)
            for fd in descriptors:
                os.close(fd)
            message = handshake.decode(data, "start", "signal", "wait") if data else None
        except (OSError, handshake.Garbled):
            message = None
        if message is None:
            self._drop(client)
        elif message["kind"] == "start":
            self._start(client)
        elif message["kind"] == "signal":
            self._answer(client, self._signal(message["signal"]))
        else:
            self._waiters.append(client)

    def _drop(self, client: socket.socket) -> None:
        self._poll.unregister(client.fileno())
        del self._clients[client.fileno()]
        for group in (self._starters, self._waiters):
            if client in group:
                group.remove(client)
        client.close()

    def _answer(self, client: socket.socket, message: bytes) -> None:
        try:
            channel.send(client, message)
        except OSError:
            self._drop(client)

    def _start(self, client: socket.socket) -> None:
        if self._state != "held":
            self._answer(client, handshake.encode("refused", reason=f"the payload is {self._state}"))
            return
        self._state = "starting"
        self._starters.append(client)
        try:
            channel.send(self._report, handshake.encode("go"))
        except OSError:
            return  # the child is dead; reaping it tells the rest

    def _signal(self, number: int) -> bytes:
        if not 1 <= number <= 64:
            return handshake.encode("refused", reason=f"there is no signal {number}")
        if self._kill(number):
            return handshake.encode("done")
        return handshake.encode("refused", reason="the payload has ended")

    def _kill(self, number: int) -> bool:
        """Signal our child: until it is reaped, which only we do, its pid is nobody else's."""
        try:
            os.kill(self._payload[0], number)
        except ProcessLookupError:
            return False
        return True

    # --- the end --------------------------------------------------------------------------------------------

    def _reap(self, notice: int) -> None:
        os.read(notice, 128)
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid == self._setter and self._setter != self._payload[0]:
                continue
            if ended.si_pid == self._payload[0] or ended.si_pid == self._setter:
                self._drain_report()
                self._finish(self._fate or fate(ended.si_code, ended.si_status))

    def _drain_report(self) -> None:
        """What the child said last may not have been read yet."""
        self._report.setblocking(False)
        while True:
            try:
                data, _ = channel.receive(self._report)
            except OSError:
                return
            if not data:
                return
            message = handshake.decode(data, "ready", "failed", "started", "ended")
            kind = message.pop("kind")
            if kind == "failed":
                self._failed(message)
            elif kind == "ended":
                self._ended(message)

    def _finish(self, ended: dict[str, Any]) -> NoReturn:
        """Write down how it ended, tell those who wait, and go."""
        self._stdio.drain()
        if self._state == "setting up":
            self._abandon()
        failure = self._failure
        if failure is not None:
            ended = {**ended, "code": failure["status"], "signal": 0, "core": False}
        elif self._starters:
            self._running()
        record = {**ended, "failure": failure, "lost_output": self._stdio.lost}
        fd = self._write_json("exit.json", record)
        message = handshake.encode("ended", **ended)
        for client in self._waiters:
            self._answer(client, message)
        # Renamed first, synced second: whoever reads it in this boot reads it from memory.
        os.fsync(fd)
        os.fsync(self._session)
        os._exit(0)

    def _abandon(self) -> NoReturn:
        """The set-up ended before the gate: say so, leave nothing."""
        if self._failure is None:
            lost = {"step": -1, "errno": errno.ECHILD, "detail": "the child was killed while it was set up"}
            self._tell(handshake.encode("failed", **lost, status=child.SETUP_FAILED))
        for name in ("socket", "process.json", "lock"):
            try:
                os.unlink(name, dir_fd=self._session)
            except OSError:
                continue
        os._exit(1)


def supervise(request: Request, reaped: int, started_at: int, null: int) -> NoReturn:
    """Launch and serve.  Never returns."""
    supervisor = Supervisor(request, reaped, started_at)
    try:
        supervisor.launch(request, null)
    except BaseException as error:
        supervisor.refuse(error)
    supervisor.serve()
