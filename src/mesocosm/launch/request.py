"""A request where it lands: memory laid out by the zygote, filled by the kernel in the spare that takes it.

The launcher's message is two parts, one after the other: the arguments of the child's clone3(2), which the
supervisor hands to the kernel as they are, and a ``launch`` for the child (handshake.py).
"""

from __future__ import annotations

import ctypes
import os
import struct

from mesocosm.launch import bare, handshake
from mesocosm.launch.channel import MOST_DESCRIPTORS
from mesocosm.linux import syscalls

_CLONE3 = syscalls.NUMBERS["clone3"]
_CGROUP = syscalls.CLONE_ARGS_SIZE - 8  # the last field of struct clone_args

_PARTS = struct.Struct("PNPN")
"""Two of struct iovec, readv(2)."""
_HEADER = struct.Struct("PQPNPNQ")
"""struct msghdr, recvmsg(2): name and its length, parts and their number, control and its length, flags."""
_CONTROL = struct.Struct("Nii")
"""struct cmsghdr, cmsg(3): its length, level and type; descriptors follow, four bytes each."""
_SPACE = _CONTROL.size + 4 * MOST_DESCRIPTORS

_MSG_CTRUNC, _MSG_TRUNC, _MSG_CMSG_CLOEXEC = 0x8, 0x20, 0x40000000


class Request:
    """Room for one request."""

    __slots__ = ("_arguments", "_control", "_header", "_kept", "_text")

    def __init__(self) -> None:
        arguments = ctypes.create_string_buffer(syscalls.CLONE_ARGS_SIZE)
        text = ctypes.create_string_buffer(handshake.LIMIT)
        control = ctypes.create_string_buffer(_SPACE)
        self._arguments, self._text, self._control = map(ctypes.addressof, (arguments, text, control))
        parts = ctypes.create_string_buffer(
            _PARTS.pack(self._arguments, syscalls.CLONE_ARGS_SIZE, self._text, handshake.LIMIT)
        )
        header = ctypes.create_string_buffer(
            _HEADER.pack(0, 0, ctypes.addressof(parts), 2, self._control, _SPACE, 0)
        )
        self._header = ctypes.addressof(header)
        self._kept = (arguments, text, control, parts, header)

    def receive(self, requests: int) -> int:
        """Wait for a request: its bytes, none at the end of all requests, -1 when there can be none."""
        length: int = bare.recvmsg(requests, self._header, _MSG_CMSG_CLOEXEC)
        return length

    def clone(self) -> int:
        """Make the child, in the cgroup that is the first descriptor if any: pid, 0 in the child, or -1."""
        bare.memmove(self._arguments + _CGROUP, self._control + _CONTROL.size, 4)
        pid: int = bare.syscall(_CLONE3, self._arguments, syscalls.CLONE_ARGS_SIZE, 0, 0, 0)
        return pid

    def refusal(self) -> OSError:
        """Why `clone` has failed."""
        code = ctypes.get_errno()
        return OSError(code, os.strerror(code))

    def content(self, length: int) -> tuple[bytes, list[int]]:
        """The child's message, in a request of ``length`` bytes, and the descriptors.  Raises Garbled."""
        _, _, _, _, _, control, flags = _HEADER.unpack(ctypes.string_at(self._header, _HEADER.size))
        if flags & (_MSG_TRUNC | _MSG_CTRUNC) or length < syscalls.CLONE_ARGS_SIZE or control < _CONTROL.size:
            raise handshake.Garbled("a request that is cut off")
        numbers = memoryview(ctypes.string_at(self._control, control))[_CONTROL.size :]
        size, _, _ = _CONTROL.unpack(ctypes.string_at(self._control, _CONTROL.size))
        received = numbers[: size - _CONTROL.size].cast("i").tolist()
        return ctypes.string_at(self._text, length - syscalls.CLONE_ARGS_SIZE), received
