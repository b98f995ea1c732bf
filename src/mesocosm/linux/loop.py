"""Loop devices, loop(4): a file as a block device, for file systems that cannot be mounted from a file."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16

_CONFIG = struct.Struct("=II232s64x")  # struct loop_config: descriptor, block size, struct loop_info64
_INFO = struct.Struct("=QQQQQIIII64s64s32sQQ")
_ATTEMPTS = 64


def attach(file: int) -> tuple[int, str]:
    """Bind a read-only loop device to an open file; returns a descriptor of the device and its path.

    The device goes back by itself when the last user is gone: mount it before closing the descriptor.
    """
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            path = f"/dev/loop{number}"
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _configure(device, file)
                return device, path
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # somebody else was quicker
                    raise
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device can be had", "/dev/loop-control")


def _configure(device: int, file: int) -> None:
    """Without double caching where the file's file system can read directly."""
    flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR
    try:
        fcntl.ioctl(device, LOOP_CONFIGURE, _config(file, flags | LO_FLAGS_DIRECT_IO))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fcntl.ioctl(device, LOOP_CONFIGURE, _config(file, flags))


def _config(file: int, flags: int) -> bytes:
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, b"", b"", b"", 0, 0)
    return _CONFIG.pack(file, 0, info)
