"""A thread that only takes what nobody else wants: sched(7), ioprio_set(2)."""

from __future__ import annotations

import ctypes
import os
import threading

from mesocosm.linux.syscall_table import TABLES

NUMBERS = TABLES.get(os.uname().machine, {})
_IOPRIO_WHO_PROCESS = 1
_IDLE_CLASS = 3 << 13
_libc = ctypes.CDLL(None, use_errno=True)


def be_idle() -> None:
    """Let the calling thread read only while the disk is idle, and compute only while a processor is.

    Best effort: the I/O class means something to the BFQ and mq-deadline schedulers alone.
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    if "ioprio_set" in NUMBERS:
        _libc.syscall(NUMBERS["ioprio_set"], _IOPRIO_WHO_PROCESS, 0, _IDLE_CLASS)
