"""The gate of a held child: it listens itself, so that a start needs nobody in between.

Whoever connects must be root or the launcher's own user, as the kernel says (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import os
import select

from mesocosm.launch import channel, handshake

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mesocosm.launch.channel import Socket

PATIENCE = 5.0
"""Seconds that a client may take to say what it wants."""

_OWNER = os.geteuid()


def wait(gate: Socket, report: Socket) -> Socket:
    """The client that said ``start``; it is told of success by the end of the connection, at ``execve``.

    Ends the process when the supervisor is gone: nobody would learn how the payload ends.
    """
    poll = select.poll()
    poll.register(gate, select.POLLIN)
    poll.register(report, 0)  # POLLHUP always counts; a message there is for another process
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if report.fileno() in ready:
            _leave()
        client = channel.accept(gate)
        if channel.peer_uid(client) in (0, _OWNER) and _says_start(client):
            return client
        client.close()


def _leave() -> NoReturn:
    os._exit(1)


def _says_start(client: Socket) -> bool:
    client.settimeout(PATIENCE)
    try:
        message, received = channel.receive(client, handshake.LIMIT)
        for fd in received:
            os.close(fd)
        handshake.decode(message, "start")
    except (OSError, handshake.Garbled):
        return False
    client.settimeout(None)
    return True
