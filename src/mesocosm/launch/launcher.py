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
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from mesocosm import trace
from mesocosm.errors import AlreadyExists, LaunchError, MesocosmError, NotFound, WrongState
from mesocosm.launch import entry, failures, handshake
from mesocosm.launch import session as sessions
from mesocosm.launch.birth import Birth, Forked
from mesocosm.launch.forkserver import ForkServer
from mesocosm.launch.session import Evidence, Processes
from mesocosm.launch.sockets import connect, end_of, ended, receive, send
from mesocosm.linux import processes, syscalls
from mesocosm.model.termination import Exit
from mesocosm.paths import SessionPaths
from mesocosm.plan import LaunchPlan


class OutputPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Files that output is appended to; ``index`` as in launch/stdio.py."""

    stdout: Path
    stderr: Path
    index: Path


class Launcher:
    """Starts process trees by launch plans.  Use ``Launcher.open``."""

    def __init__(self) -> None:
        self._server: asyncio.Task[ForkServer] | None = None
        self._plans: dict[Path, LaunchPlan] = {}  # held and not yet started, for words only

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, *, runtime: Path) -> AsyncIterator[Launcher]:
        """A launcher, whose zygote comes with the first need; leaving ends the zygote and no container."""
        del runtime  # sessions come with their own paths
        launcher = cls()
        try:
            yield launcher
        finally:
            await launcher.close()

    def warm(self) -> asyncio.Task[ForkServer]:
        """Have a zygote, and another one when it was killed; it starts while the caller does other things."""
        if self._server is not None and self._server.done() and not _serves(self._server):
            _retire(self._server)
            self._server = None
        if self._server is None:
            self._server = asyncio.create_task(ForkServer.start(), name="zygote")
        return self._server

    async def close(self) -> None:
        """End the zygote.  Supervisors and containers live on."""
        if self._server is not None:
            await asyncio.wait({self._server})
            _retire(self._server)
            self._server = None

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
        server = await asyncio.shield(self.warm())
        descriptors = _descriptors(plan, session, output, stdin, cgroup)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                descriptors["channel"] = theirs.fileno()
                flags = entry.birth_flags(plan.namespaces)
                await server.request(descriptors, namespaces=flags, timing=timing)
            trace.point("launch.requested")
            birth = Birth(ours, plan, session)
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

    async def start(self, session: SessionPaths) -> None:
        """Open the gate and return when the payload runs.

        Raises LaunchError with status 127 or 126 when it cannot be executed, WrongState when it was started
        before, NotFound when there is nothing to start.
        """
        plan = self._plans.pop(session.directory, None)
        try:
            client = await connect(session, "gate")
        except NotFound:
            raise _not_held(sessions.evidence(session), session) from None
        with client:
            await send(client, handshake.encode("start"))
            trace.point("launch.starting")
            message = await receive(client, "failed")
        if message is not None:
            raise failures.from_message(plan, message)
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
            client = await connect(session, "socket")
        except NotFound:
            pass
        else:
            with client:
                await end_of(client)
        found = sessions.evidence(session)
        if found.exit is None and found.alive and found.processes is not None:
            await ended(found.processes.supervisor)
            found = sessions.evidence(session)
        return found.exit

    def evidence(self, session: SessionPaths) -> Evidence:
        """What there is of a session; needs no supervisor."""
        return sessions.evidence(session)

    def process(self, session: SessionPaths) -> Processes | None:
        """Identities of supervisor and payload, None before there are any."""
        return sessions.processes(session)


def _serves(server: asyncio.Task[ForkServer]) -> bool:
    """Whether a start that has come to its end gave a zygote that lives."""
    return not server.cancelled() and server.exception() is None and server.result().alive


def _retire(server: asyncio.Task[ForkServer]) -> None:
    """End what a start that has come to its end gave, if anything."""
    if not server.cancelled() and server.exception() is None:
        server.result().close()


def _not_held(found: Evidence, session: SessionPaths) -> MesocosmError:
    """Why there is no gate to open."""
    if found.processes is None:
        return NotFound(f"nothing is held in {session.directory}")
    if found.exit is None and processes.is_alive(*found.processes.payload):
        return WrongState("the payload has been started before")
    how = f" with status {found.exit.status}" if found.exit is not None else ""
    return WrongState(
        f"the payload has ended{how}", hint="it was started before, or killed while it was held"
    )


def _descriptors(
    plan: LaunchPlan, session: SessionPaths, output: OutputPaths, stdin: int | None, cgroup: Path | None
) -> dict[str, int]:
    """Everything the supervisor needs, opened; the caller closes all but ``stdin``."""
    opened: dict[str, int] = {}
    try:
        opened["session"] = _session_directory(session)
        opened["plan"] = syscalls.sealed_memfd("plan", plan.to_json())
        for name in ("stdout", "stderr", "index"):
            opened[name] = _open_output(getattr(output, name))
        if cgroup is not None:
            opened["cgroup"] = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException as error:
        for fd in opened.values():
            os.close(fd)
        if isinstance(error, OSError):
            raise _cannot_prepare(error) from error
        raise
    if stdin is not None:
        opened["stdin"] = stdin
    return opened


def _session_directory(session: SessionPaths) -> int:
    """The session's directory, made and open.  AlreadyExists when it has been used."""
    directory = os.fspath(session.directory)
    try:
        os.mkdir(directory, 0o700)  # noqa: PTH102  (on the way to every first instruction)
    except FileExistsError:
        if session.process.exists():
            raise AlreadyExists(f"session {directory} has been used") from None
    except FileNotFoundError:
        session.directory.mkdir(mode=0o700, parents=True)
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _cannot_prepare(error: OSError) -> LaunchError:
    place = f": {os.fsdecode(error.filename)}" if error.filename is not None else ""
    return LaunchError(
        f"cannot prepare the launch: {error.strerror}{place}",
        step="prepare the launch",
        errno=error.errno or 0,
    )


def _open_output(path: Path) -> int:
    # Not O_APPEND, which splice(2) refuses; the supervisor is the only writer of this open file.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    os.lseek(fd, 0, os.SEEK_END)
    return fd
