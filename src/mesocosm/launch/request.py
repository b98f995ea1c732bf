"""A request where it lands: memory laid out by the zygote, filled by the kernel in the spare that takes it.

The launcher's message is two parts, one after the other: the arguments of the child's clone3(2), which the
supervisor hands to the kernel as they are, and a ``launch`` for the child (handshake.py).
"""

from __future__ import annotations

import ctypes
import struct

from mesocosm.launch import handshake
from mesocosm.launch.channel import MOST_DESCRIPTORS
from mesocosm.linux import syscalls

_PARTS = struct.Struct("PNPN")
"""Two of struct iovec, readv(2)."""
_HEADER = struct.Struct("PQPNPNQ")
"""struct msghdr, recvmsg(2): name and its length, parts and their number, control and its length, flags."""
_CONTROL = struct.Struct("Nii")
"""struct cmsghdr, cmsg(3): its length, level and type; descriptors follow, four bytes each."""
_SPACE = _CONTROL.size + 4 * MOST_DESCRIPTORS

_MSG_CTRUNC, _MSG_TRUNC = 0x8, 0x20


class Request:
    """Room for one request, by addresses.

    ``header``      what recvmsg(2) takes
    ``arguments``   what clone3(2) takes, once it has been received
    ``cgroup``      in these, the number of the cgroup's descriptor
    ``first``       the number that the first descriptor has been received under
    """

    __slots__ = ("_control", "_kept", "_text", "arguments", "cgroup", "first", "header")

    def __init__(self) -> None:
        arguments = ctypes.create_string_buffer(syscalls.CLONE_ARGS_SIZE)
        text = ctypes.create_string_buffer(handshake.LIMIT)
        control = ctypes.create_string_buffer(_SPACE)
        self.arguments, self._text, self._control = map(ctypes.addressof, (arguments, text, control))
        self.cgroup = self.arguments + syscalls.CLONE_ARGS_SIZE - 8
        self.first = self._control + _CONTROL.size
        parts = ctypes.create_string_buffer(
            _PARTS.pack(self.arguments, syscalls.CLONE_ARGS_SIZE, self._text, handshake.LIMIT)
        )
        header = ctypes.create_string_buffer(
            _HEADER.pack(0, 0, ctypes.addressof(parts), 2, self._control, _SPACE, 0)
        )
        self.header = ctypes.addressof(header)
        self._kept = (arguments, text, control, parts, header)

    def clone_again(self) -> tuple[int, OSError | None]:
        """After a clone3(2) that failed: how another one goes, or why it fails."""
        try:
            return syscalls.clone3_prepared(ctypes.string_at(self.arguments, syscalls.CLONE_ARGS_SIZE)), None
        except OSError as error:
            return 0, error

    def content(self, length: int) -> tuple[bytes, list[int]]:
        """The child's message, in a request of ``length`` bytes, and the descriptors.  Raises Garbled."""
        _, _, _, _, _, control, flags = _HEADER.unpack(ctypes.string_at(self.header, _HEADER.size))
        if flags & (_MSG_TRUNC | _MSG_CTRUNC) or length < syscalls.CLONE_ARGS_SIZE or control < _CONTROL.size:
            raise handshake.Garbled("a request that is cut off")
        numbers = memoryview(ctypes.string_at(self._control, control))[_CONTROL.size :]
        size, _, _ = _CONTROL.unpack(ctypes.string_at(self._control, _CONTROL.size))
        received = numbers[: size - _CONTROL.size].cast("i").tolist()
        return ctypes.string_at(self._text, length - syscalls.CLONE_ARGS_SIZE), received
