"""Datagrams with descriptors over SOCK_SEQPACKET sockets, unix(7).

These are the C library's sockets: the ``socket`` module brings ``selectors`` and ``enum``, which would lie in
the memory of every supervisor.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_DESCRIPTORS = 32

Socket = _socket.socket


def pair() -> tuple[Socket, Socket]:
    """Two connected sockets."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


def listen(path: str, backlog: int) -> Socket:
    """A socket that listens at ``path``."""
    listener = Socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(backlog)
    return listener


def accept(listener: Socket) -> Socket:
    """The next connection."""
    fd, _ = listener._accept()  # type: ignore[attr-defined]
    return adopt(fd)


def adopt(fd: int) -> Socket:
    """The socket behind a descriptor of ours."""
    return Socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)


def move(sock: Socket, number: int) -> Socket:
    """The socket at another descriptor number; what was there is closed."""
    os.dup2(sock.fileno(), number, inheritable=False)
    sock.close()
    return adopt(number)


def peer_uid(sock: Socket) -> int:
    """The user that connected, as the kernel says, SO_PEERCRED."""
    credentials = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little")


def send(sock: Socket, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message.  BrokenPipeError when the other side is gone; no signal is raised."""
    if descriptors:
        numbers = struct.pack(f"{len(descriptors)}i", *descriptors)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)]
        sock.sendmsg([message], rights, _socket.MSG_NOSIGNAL)
    else:
        sock.send(message, _socket.MSG_NOSIGNAL)


def receive(sock: Socket, limit: int, *, wait: bool = True) -> tuple[bytes, list[int]]:
    """One message of at most ``limit`` bytes and its descriptors, which are close-on-exec.

    ``(b"", [])`` at the end.  EMSGSIZE when the message or the number of descriptors is larger than allowed:
    nothing of it is kept.  BlockingIOError when there is none and ``wait`` is false.
    """
    room = _socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)
    flags = _socket.MSG_CMSG_CLOEXEC | (0 if wait else _socket.MSG_DONTWAIT)
    data, ancillary, got, _ = sock.recvmsg(limit, room, flags)
    numbers: list[int] = []
    for level, kind, rights in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            numbers += struct.unpack(f"{len(rights) // 4}i", rights[: len(rights) // 4 * 4])
    if got & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
        for number in numbers:
            os.close(number)
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    return data, numbers
