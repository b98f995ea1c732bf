"""The launcher's ends of its sockets, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

from mesocosm.errors import NotFound
from mesocosm.launch import channel, handshake
from mesocosm.linux import processes
from mesocosm.paths import SessionPaths


async def connect(session: SessionPaths, name: str) -> socket.socket:
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


async def send(sock: socket.socket, message: bytes) -> None:
    """Send one message; a peer that has gone is noticed when its answer is read."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        channel.send(sock, message)


async def receive(sock: socket.socket, *expected: str) -> dict[str, Any] | None:
    """The next message; None at the end."""
    try:
        data = await asyncio.get_running_loop().sock_recv(sock, handshake.LIMIT)
    except ConnectionResetError:
        return None
    return handshake.decode(data, *expected) if data else None


async def end_of(sock: socket.socket) -> None:
    """Until the other side has closed."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionResetError):
        while await loop.sock_recv(sock, handshake.LIMIT):
            pass


async def ended(identity: tuple[int, int]) -> None:
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


async def writable(sock: socket.socket) -> None:
    """Wait until a message can be sent."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)
