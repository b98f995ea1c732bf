"""The agent's side: start, hold, signal and wait for process trees.

*A container starts.*  ``fork`` hands plan and descriptors to the zygote's next spare supervisor and returns
when the child has done every step up to the gate.  ``start`` opens the gate and returns when ``execve`` has
happened.

*The agent is gone.*  Supervisors and containers live on.  A new launcher, in any process, starts, signals and
waits through the session's socket; nothing in memory is needed.

*A step fails.*  ``fork`` or ``start`` raises LaunchError naming it, and what was made is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mesocosm import trace
from mesocosm.errors import AlreadyExists, LaunchError, NotFound, Unavailable, Unsupported, WrongState
from mesocosm.launch import channel, failures, handshake
from mesocosm.launch import session as sessions
from mesocosm.launch.session import Evidence, Processes
from mesocosm.linux import mounts, processes, syscalls
from mesocosm.model.termination import Exit
from mesocosm.paths import SessionPaths
from mesocosm.plan import LaunchPlan

# The package's own __init__ is left out: it would bring the agent's libraries into every supervisor.
_BOOTSTRAP = (
    "import sys; package = type(sys)('mesocosm'); package.__path__ = [sys.argv[1]];"
    "sys.modules['mesocosm'] = package; from mesocosm.launch.zygote import main;"
    "main(*map(int, sys.argv[2:]))"
)


class OutputPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Files that output is appended to; ``index`` as in launch/stdio.py."""

    stdout: Path
    stderr: Path
    index: Path


class Forked(msgspec.Struct, frozen=True, kw_only=True):
    """A child that is set up and held.

    ``timing`` is filled on request: what was done, steps by their tags, and the nanoseconds since ``fork``
    was called.
    """

    pid: int
    start_time: int
    supervisor: int
    supervisor_start_time: int
    warnings: tuple[str, ...] = ()
    timing: tuple[tuple[str, int], ...] = ()


class Launcher:
    """Starts process trees by launch plans.  Use ``Launcher.open``."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self._zygote: subprocess.Popen[bytes] | None = None
        self._requests: tuple[socket.socket, socket.socket] | None = None
        self._log = -1
        self._plans: dict[Path, LaunchPlan] = {}  # held and not yet started, for words only

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, *, runtime: Path) -> AsyncIterator[Launcher]:
        """A launcher with a warm zygote; leaving the context ends the zygote and no container."""
        launcher = cls(runtime)
        await launcher._start_zygote()
        try:
            yield launcher
        finally:
            launcher.close()

    def close(self) -> None:
        """End the zygote.  Supervisors and containers live on."""
        if self._requests is not None:
            for requests in self._requests:
                requests.close()
            self._requests = None
        if self._zygote is not None:
            self._zygote.wait()
            self._zygote = None
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    # --- containers -----------------------------------------------------------------------------------------

    async def fork(
        self,
        plan: LaunchPlan,
        session: SessionPaths,
        *,
        output: OutputPaths,
        stdin: int | None = None,
        cgroup: Path | None = None,
        timing: bool = False,
    ) -> Forked:
        """Make the child and run the plan up to its gate.

        ``stdin`` is a descriptor to read from, /dev/null when None; ``cgroup`` a cgroup2 directory that the
        child starts in.  Raises LaunchError, naming the step, with nothing left behind; AlreadyExists when
        the session has been used.
        """
        begun = time.monotonic_ns() if timing else 0
        await self._ensure_zygote()
        descriptors = _descriptors(plan, session, output, stdin, cgroup)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                descriptors["channel"] = theirs.fileno()
                await self._request(plan, descriptors, timing)
            trace.point("launch.requested")
            birth = _Birth(ours, plan, session)
            try:
                forked = await birth.wait(begun)
            except asyncio.CancelledError:
                await asyncio.shield(birth.undo())
                raise
        finally:
            ours.close()
            for name, fd in descriptors.items():
                if name not in ("channel", "stdin"):
                    os.close(fd)
        self._plans[session.directory] = plan
        return forked

    async def _request(self, plan: LaunchPlan, descriptors: Mapping[str, int], timing: bool) -> None:
        names = [name for name in handshake.DESCRIPTORS if name in descriptors]
        message = handshake.encode("launch", descriptors=names, timing=timing)
        numbers = [descriptors[name] for name in names]
        assert self._requests is not None
        requests = self._requests[0 if "pid" in plan.namespaces else 1]
        while True:
            try:
                channel.send(requests, message, numbers)
                return
            except BlockingIOError:
                await _writable(requests)
            except OSError as error:
                raise Unavailable(
                    f"the launcher's zygote does not answer: {error.strerror}{self._words()}"
                ) from error

    async def start(self, session: SessionPaths) -> None:
        """Open the gate and return when the payload runs.

        Raises LaunchError with status 127 or 126 when it cannot be executed, WrongState when it was started
        before, NotFound when there is nothing to start.
        """
        plan = self._plans.pop(session.directory, None)
        try:
            client = await _connect(session, "gate")
        except NotFound:
            found = sessions.evidence(session)
            if found.alive or found.exit is not None:
                raise WrongState("the payload has been started before") from None
            raise
        with client:
            await _send(client, handshake.encode("start"))
            trace.point("launch.starting")
            message = await _receive(client, "failed")
        if message is not None:
            raise _launch_error(plan, message)
        trace.point("launch.started")

    async def signal(self, session: SessionPaths, number: int) -> bool:
        """Send a signal to the payload's first process.  False when it has ended."""
        found = sessions.processes(session)
        pidfd = None if found is None else processes.hold(*found.payload)
        if pidfd is None:
            return False
        try:
            return processes.send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    async def wait(self, session: SessionPaths) -> Exit | None:
        """Until the payload has ended; None when its supervisor vanished without writing down how."""
        try:
            client = await _connect(session, "socket")
        except NotFound:
            pass
        else:
            with client:
                await _end_of(client)
        found = sessions.evidence(session)
        if found.exit is None and found.alive and found.processes is not None:
            await _ended(found.processes.supervisor)
            found = sessions.evidence(session)
        return found.exit

    def evidence(self, session: SessionPaths) -> Evidence:
        """What there is of a session; needs no supervisor."""
        return sessions.evidence(session)

    def process(self, session: SessionPaths) -> Processes | None:
        """Identities of supervisor and payload, None before there are any."""
        return sessions.processes(session)

    # --- the zygote -----------------------------------------------------------------------------------------

    async def _ensure_zygote(self) -> None:
        if self._zygote is None or self._zygote.poll() is not None:
            self.close()
            await self._start_zygote()

    async def _start_zygote(self) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self._log = os.memfd_create("mesocosm-zygote-log", os.MFD_CLOEXEC)
        theirs = [pair[1].fileno() for pair in pairs]
        try:
            self._zygote = await _in_thread_of_its_own(lambda: _exec_zygote(theirs, self._log))
        finally:
            for pair in pairs:
                pair[1].close()
        for pair in pairs:
            pair[0].setblocking(False)
        self._requests = pairs[0][0], pairs[1][0]

    def _words(self) -> str:
        """What the zygote or a supervisor said last on its standard error."""
        if self._log < 0:
            return ""
        lines = os.pread(self._log, 1 << 16, 0).decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


def _descriptors(
    plan: LaunchPlan, session: SessionPaths, output: OutputPaths, stdin: int | None, cgroup: Path | None
) -> dict[str, int]:
    """Everything the supervisor needs, opened; the caller closes all but ``stdin``."""
    opened: dict[str, int] = {}
    try:
        session.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if session.process.exists() or session.exit.exists():
            raise AlreadyExists(f"session {session.directory} has been used")
        opened["plan"] = syscalls.sealed_memfd("plan", plan.to_json())
        opened["session"] = os.open(session.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for name in ("stdout", "stderr", "index"):
            opened[name] = _open_output(getattr(output, name))
        if cgroup is not None:
            opened["cgroup"] = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException:
        for fd in opened.values():
            os.close(fd)
        raise
    if stdin is not None:
        opened["stdin"] = stdin
    return opened


def _open_output(path: Path) -> int:
    # Not O_APPEND, which splice(2) refuses; the supervisor is the only writer of this open file.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    os.lseek(fd, 0, os.SEEK_END)
    return fd


def _launch_error(plan: LaunchPlan | None, message: Mapping[str, Any]) -> LaunchError:
    step, code, detail, status = (message[name] for name in ("step", "errno", "detail", "status"))
    if plan is None:
        return failures.nameless(code, detail, status)
    return failures.launch_error(plan, step, code, detail, status)


class _Birth:
    """One child between request and gate."""

    def __init__(self, sock: socket.socket, plan: LaunchPlan, session: SessionPaths) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._plan = plan
        self._session = session
        self._supervisor = (0, 0)
        self._payload = (0, 0)

    async def wait(self, begun: int) -> Forked:
        """Until the child is held.  LaunchError when a step failed; nothing is left then."""
        while True:
            message = await _receive(self._socket, "forked", "created", "failed")
            if message is None:
                await self._clear()
                raise Unavailable(
                    "the child ended while it was set up", hint="it was killed, or ran out of memory"
                )
            if message["kind"] == "failed":
                await self._clear()
                raise _launch_error(self._plan, message)
            self._payload = handshake.identity(message["payload"])
            if message["kind"] == "created":
                trace.point("launch.created")
                return self._forked(message, begun)
            self._supervisor = handshake.identity(message["supervisor"])
            trace.point("launch.forked")

    def _forked(self, message: Mapping[str, Any], begun: int) -> Forked:
        return Forked(
            pid=self._payload[0],
            start_time=self._payload[1],
            supervisor=self._supervisor[0],
            supervisor_start_time=self._supervisor[1],
            warnings=tuple(str(text) for text in message["warnings"]),
            timing=tuple((str(name), int(at) - begun) for name, at in message["timing"]),
        )

    async def undo(self) -> None:
        """Nobody wants it any more: kill it and leave nothing."""
        while not self._payload[0]:
            message = await _receive(self._socket, "forked", "created", "failed")
            if message is None or message["kind"] == "failed":
                break
            self._payload = handshake.identity(message["payload"])
            self._supervisor = handshake.identity(message["supervisor"])
        pidfd = processes.hold(*self._payload) if self._payload[0] else None
        if pidfd is not None:
            processes.send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        await self._clear()

    async def _clear(self) -> None:
        await _ended(self._supervisor)
        sessions.discard(self._session)


# --- sockets ------------------------------------------------------------------------------------------------


async def _connect(session: SessionPaths, name: str) -> socket.socket:
    """A connection to one of a session's sockets.  NotFound when nobody listens there."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        directory = os.open(session.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A path through the descriptor: sun_path has 108 bytes.
            client.connect(f"/proc/self/fd/{directory}/{name}")
        finally:
            os.close(directory)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        client.close()
        raise NotFound(
            f"no supervisor answers in {session.directory}", hint="its process has ended"
        ) from None
    except BaseException:
        client.close()
        raise
    return client


async def _send(sock: socket.socket, message: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        channel.send(sock, message)


async def _receive(sock: socket.socket, *expected: str) -> dict[str, Any] | None:
    """The next message; None at the end."""
    try:
        data = await asyncio.get_running_loop().sock_recv(sock, handshake.LIMIT)
    except ConnectionResetError:
        return None
    return handshake.decode(data, *expected) if data else None


async def _end_of(sock: socket.socket) -> None:
    """Until the other side has closed."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionResetError):
        while await loop.sock_recv(sock, handshake.LIMIT):
            pass


async def _ended(identity: tuple[int, int]) -> None:
    """Until that process has ended."""
    pidfd = processes.hold(*identity) if identity[0] else None
    if pidfd is None:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)


# --- starting the zygote ------------------------------------------------------------------------------------


async def _in_thread_of_its_own(act: Any) -> Any:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def body() -> None:
        try:
            result, error = act(), None
        except BaseException as raised:  # carried to the one who waits
            result, error = None, raised
        loop.call_soon_threadsafe(_settle, done, result, error)

    threading.Thread(target=body, name="mesocosm-zygote", daemon=True).start()
    return await done


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def _exec_zygote(requests: Sequence[int], log: int) -> subprocess.Popen[bytes]:
    """Start the interpreter from a read-only view of the host; the calling thread keeps that view (R-01)."""
    package = Path(__file__).parent.parent
    host_mounts = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    host_root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _enter_read_only_view()
        return subprocess.Popen(
            [
                sys.executable,
                *("-I", "-S", "-B", "-X", "utf8=1", "-c", _BOOTSTRAP),
                *map(str, (package, *requests, host_mounts, host_root)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={},
            cwd="/",
            pass_fds=(*requests, host_mounts, host_root),
            start_new_session=True,
        )
    finally:
        os.close(host_mounts)
        os.close(host_root)


def _enter_read_only_view() -> None:
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except PermissionError as error:
        raise Unsupported("cannot make a mount namespace", hint="run as root with CAP_SYS_ADMIN") from error
    mounts.set_propagation("/", "private")
    syscalls.mount_setattr(syscalls.AT_FDCWD, "/", syscalls.AT_RECURSIVE, attr_set=syscalls.MOUNT_ATTR_RDONLY)
