"""Runs classic BPF over ``struct seccomp_data`` as the kernel does, one instruction after the other.

Written from the kernel's description of the machine (Documentation/networking/filter.rst), apart from the
compiler under test, and strict: anything that the kernel's checker would refuse is an error here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

ARCHES = {
    "x86_64": 0xC000003E,
    "x32": 0xC000003E,
    "x86": 0x40000003,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
}
"""Audit architecture of each ABI; x32 shares x86_64's."""


def run(program: bytes, abi: str, number: int, arguments: Sequence[int] = ()) -> int:
    """The value that ``program`` returns for a system call."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    return run_data(program, struct.pack("=IIQ6Q", number & 0xFFFFFFFF, ARCHES[abi], 0x1000, *padded))


def run_data(program: bytes, data: bytes) -> int:
    """The value that ``program`` returns for the 64 bytes of a ``struct seccomp_data``."""
    accumulator = position = 0
    code = list(struct.iter_unpack("=HBBI", program))
    assert 0 < len(code) <= 4096, "BPF_MAXINSNS"
    while True:
        operation, true, false, value = code[position]
        position += 1
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            assert value % 4 == 0 and value + 4 <= len(data), "seccomp_check_filter refuses this load"
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x05:
            position += value
        else:
            position += true if _holds(operation, accumulator, value) else false


def _holds(operation: int, accumulator: int, value: int) -> bool:
    if operation == 0x15:
        return accumulator == value
    if operation == 0x25:
        return accumulator > value
    if operation == 0x35:
        return accumulator >= value
    if operation == 0x45:
        return bool(accumulator & value)
    raise AssertionError(f"instruction {operation:#x} is not one that filters use")


def describe(value: int) -> str:
    """A return value as text, ``allow`` or ``errno(1)``."""
    names = {
        0x7FFF: "allow",
        0x7FFC: "log",
        0x7FF0: "trace",
        0x0005: "errno",
        0x0003: "trap",
        0x8000: "kill_process",
    }
    name = names.get(value >> 16, "kill_thread")
    return f"{name}({value & 0xFFFF})" if name in ("errno", "trace") else name
