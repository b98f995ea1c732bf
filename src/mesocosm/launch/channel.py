"""Datagrams with descriptors over a SOCK_SEQPACKET socket, unix(7)."""

from __future__ import annotations

import array
import errno
import os
import socket

from mesocosm.launch.handshake import LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_DESCRIPTORS = 16


def send(sock: socket.socket, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message.  BrokenPipeError when the other side is gone; no signal is raised."""
    if descriptors:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        sock.sendmsg([message], rights, socket.MSG_NOSIGNAL)
    else:
        sock.send(message, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """One message and its descriptors, which are close-on-exec; ``(b"", [])`` at the end.

    EMSGSIZE when the message or the number of descriptors is larger than allowed: nothing of it is kept.
    """
    room = socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)
    data, ancillary, got, _ = sock.recvmsg(LIMIT, room, flags | socket.MSG_CMSG_CLOEXEC)
    numbers = array.array("i")
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(rights[: len(rights) - len(rights) % numbers.itemsize])
    if got & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for number in numbers:
            os.close(number)
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    return data, list(numbers)


def move(sock: socket.socket, number: int) -> socket.socket:
    """The socket at another descriptor number; what was there is closed."""
    os.dup2(sock.fileno(), number, inheritable=False)
    sock.close()
    return adopt(number)


def adopt(fd: int) -> socket.socket:
    """The socket behind a descriptor of ours."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
