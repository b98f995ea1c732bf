"""One child between request and gate, as the launcher sees it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from typing import Any

import msgspec

from mesocosm import trace
from mesocosm.errors import Unavailable
from mesocosm.launch import failures, handshake
from mesocosm.launch import session as sessions
from mesocosm.launch.sockets import ended, receive
from mesocosm.linux import processes
from mesocosm.paths import SessionPaths
from mesocosm.plan import LaunchPlan


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


class Birth:
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
        message = await receive(self._socket, "created", "failed")
        if message is None:
            await self._clear()
            raise Unavailable(
                "the child ended while it was set up", hint="it was killed, or ran out of memory"
            )
        self._supervisor = handshake.identity(message["supervisor"])
        if message["kind"] == "failed":
            await self._clear()
            raise failures.from_message(self._plan, message)
        self._payload = handshake.identity(message["payload"])
        self._read_identity()
        trace.point("launch.created")
        return self._forked(message, begun)

    def _read_identity(self) -> None:
        """The start time of a further process is told by process.json alone."""
        found = sessions.processes(self._session)
        if self._payload[1] == 0 and found is not None:
            self._payload = found.payload

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
        found = sessions.processes(self._session)
        while found is None and await receive(self._socket, "created", "failed") is not None:
            found = sessions.processes(self._session)
        if found is not None:
            self._supervisor = found.supervisor
            pidfd = processes.hold(*found.payload)
            if pidfd is not None:
                processes.send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
        await self._clear()

    async def _clear(self) -> None:
        await ended(self._supervisor)
        sessions.discard(self._session)
