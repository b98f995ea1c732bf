"""Device access on cgroup v2: an allow list compiled to BPF and attached without a gap.  bpf(2),
bpf-helpers(7).

The kernel asks a BPF_PROG_TYPE_CGROUP_DEVICE program on every open and mknod of a device node: what it is
given is ``struct bpf_cgroup_dev_ctx``, its answer 1 lets the access pass, 0 is EPERM.  With several programs
attached to a cgroup and those above it, all must let it pass.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

from mesocosm.linux.syscalls import bpf

BLOCK = 1
CHARACTER = 2
MKNOD = 1
READ = 2
WRITE = 4
EVERY_ACCESS = MKNOD | READ | WRITE

Match = tuple[int | None, int, int | None, int | None]
"""``(BLOCK, CHARACTER or None, access bits, major or None, minor or None)``; None matches all."""

# Operation codes: class, size or source, operation (linux/bpf.h, linux/bpf_common.h).
LOAD_WORD = 0x61  # dst = *(u32 *)(src + offset)
MOVE = 0xBF  # dst = src
MOVE_VALUE = 0xB7  # dst = value
AND_VALUE = 0x57  # dst &= value
SHIFT_RIGHT = 0x77  # dst >>= value
JUMP_UNLESS_VALUE = 0x55  # if dst != value: pc += offset
JUMP_UNLESS = 0x5D  # if dst != src: pc += offset
EXIT = 0x95

_ANSWER, _CONTEXT, _KIND, _ACCESS, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5

_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_DETACH = 9
_PROG_GET_FD_BY_ID = 13
_PROG_QUERY = 16
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
_REPLACE = 4
_MOST_PROGRAMS = 64


def compile_allow_list(matches: Sequence[Match]) -> bytes:
    """A program that lets pass what any of ``matches`` covers, and nothing else."""
    code = [
        _instruction(LOAD_WORD, _KIND, _CONTEXT, offset=0),
        _instruction(MOVE, _ACCESS, _KIND),
        _instruction(AND_VALUE, _KIND, value=0xFFFF),
        _instruction(SHIFT_RIGHT, _ACCESS, value=16),
        _instruction(LOAD_WORD, _MAJOR, _CONTEXT, offset=4),
        _instruction(LOAD_WORD, _MINOR, _CONTEXT, offset=8),
    ]
    for match in matches:
        code += _rule(*match)
        if match == (None, EVERY_ACCESS, None, None):
            return b"".join(code)  # the verifier refuses what comes after as unreachable
    code += [_instruction(MOVE_VALUE, _ANSWER, value=0), _instruction(EXIT)]
    return b"".join(code)


def _rule(kind: int | None, access: int, major: int | None, minor: int | None) -> list[bytes]:
    """Comparisons that leave for the next rule at the first difference, then "let pass"."""
    tests: list[tuple[int, int, int]] = []
    if access != EVERY_ACCESS:
        tests.append((JUMP_UNLESS, _CONTEXT, 0))
    for register, value in ((_KIND, kind), (_MAJOR, major), (_MINOR, minor)):
        if value is not None:
            tests.append((JUMP_UNLESS_VALUE, register, value))
    code = []
    if access != EVERY_ACCESS:
        # The context pointer is not needed any more: its register holds the part of the request that is
        # covered.
        code += [_instruction(MOVE, _CONTEXT, _ACCESS), _instruction(AND_VALUE, _CONTEXT, value=access)]
    for index, (operation, register, value) in enumerate(tests):
        over = len(tests) - index + 1
        other = _ACCESS if operation == JUMP_UNLESS else 0
        code.append(_instruction(operation, register, other, offset=over, value=value))
    return [*code, _instruction(MOVE_VALUE, _ANSWER, value=1), _instruction(EXIT)]


def _instruction(code: int, target: int = 0, source: int = 0, *, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, target | source << 4, offset, value)


def load_device_program(program: bytes) -> int:
    """Load a program of `compile_allow_list`; its descriptor."""
    code = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(16384)
    attributes = struct.pack(
        "IIQQIIQII16s",
        _TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        1,
        len(log),
        ctypes.addressof(log),
        0,
        0,
        b"mesocosm_device",
    )
    try:
        return _command(_PROG_LOAD, attributes)[0]
    except OSError as error:
        code_number = error.errno or 0
        detail = log.value.decode("utf-8", "replace").strip()
        raise OSError(code_number, f"{os.strerror(code_number)}: device program: {detail}") from None


def attach_device_program(cgroup: str, program_fd: int) -> None:
    """Put a device program in place of those attached to the cgroup directory.

    A single former one is replaced in one step (Linux 5.6); of several the new one joins in first, so that at
    no moment more is allowed than by either list (attack R-24).
    """
    target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    former: list[int] = []
    try:
        former = [_program_fd(number) for number in attached_device_programs(target)]
        flags, replaced = (_ALLOW_MULTI | _REPLACE, former[0]) if len(former) == 1 else (_ALLOW_MULTI, 0)
        _command(_PROG_ATTACH, struct.pack("5I", target, program_fd, _ATTACH_CGROUP_DEVICE, flags, replaced))
        for old in former if not replaced else ():
            _command(_PROG_DETACH, struct.pack("4I", target, old, _ATTACH_CGROUP_DEVICE, 0))
    finally:
        for fd in (target, *former):
            os.close(fd)


def attached_device_programs(cgroup_fd: int) -> list[int]:
    """The kernel's IDs of the device programs attached to a cgroup itself."""
    numbers = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    query = struct.pack(
        "IIIIQI", cgroup_fd, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(numbers), _MOST_PROGRAMS
    )
    _, answer = _command(_PROG_QUERY, query)
    (count,) = struct.unpack_from("I", answer, 24)
    return list(numbers[:count])


def _program_fd(number: int) -> int:
    return _command(_PROG_GET_FD_BY_ID, struct.pack("I", number))[0]


def _command(command: int, attributes: bytes) -> tuple[int, bytes]:
    """bpf(2); an interrupted load (EAGAIN) is tried again."""
    for _ in range(8):
        buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
        try:
            return bpf(command, buffer), buffer.raw
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), "bpf")
