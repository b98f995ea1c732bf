"""The memory that forked processes share until they write to it.

A process that is forked and then runs Python writes reference counts all over the interpreter's heap, and
each first write of a page is a fault and a copy.  A spare child takes all of them at once, ahead of time; a
supervisor avoids them.
"""

from __future__ import annotations

import ctypes

_MADV_POPULATE_WRITE = 23  # Linux 5.14

_madvise = ctypes.PyDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def private_ranges() -> list[tuple[int, int]]:
    """Address and length of each private writable mapping of this process, proc_pid_maps(5)."""
    found = []
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            addresses, access, *rest = line.split()
            if access == b"rw-p" and not (len(rest) > 3 and rest[3].startswith(b"[v")):
                first, _, end = addresses.partition(b"-")
                found.append((int(first, 16), int(end, 16) - int(first, 16)))
    return found


def populate(ranges: list[tuple[int, int]]) -> None:
    """Copy what is still shared of these ranges now.  Where the kernel cannot, they are copied as usual."""
    for address, length in ranges:
        _madvise(address, length, _MADV_POPULATE_WRITE)
