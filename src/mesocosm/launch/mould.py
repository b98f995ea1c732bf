"""The mould: a process that does nothing but fork supervisors.

What a supervisor and the process it was forked from both leave alone, they share.  The zygote is busy and
writes to its memory all the time; the mould is not, so that the supervisors' memory stays shared.  They are
the zygote's children all the same (CLONE_PARENT), and the mould ends with the zygote.
"""

from __future__ import annotations

import ctypes
import os

from mesocosm.launch import bare, entry
from mesocosm.launch.supervisor import be_supervisor
from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mesocosm.launch.offer import Offer

_pid = ctypes.c_int()
_order = ctypes.create_string_buffer(1)


def _sibling(namespaces: int) -> ctypes.Array[ctypes.c_char]:
    flags = syscalls.CLONE_PARENT | syscalls.CLONE_PARENT_SETTID | namespaces
    where = ctypes.addressof(_pid)
    return ctypes.create_string_buffer(syscalls.clone3_arguments(flags, exit_signal=0, parent_tid=where))


_AHEAD, _PLAIN = _sibling(entry.AHEAD), _sibling(0)
_WHERE = tuple(map(ctypes.addressof, (_order, _AHEAD, _PLAIN, _pid)))


def cast(orders: int, made: int, offer: Offer) -> NoReturn:
    """Fork a supervisor for each byte read from ``orders``; write its pid to ``made``.  Never returns.

    What the mould writes to, its supervisors no longer share with it.
    """
    order, ahead, plain, pid = _WHERE
    while bare.read(orders, order, 1) == 1:
        made_ahead = 1
        child = bare.syscall(bare.CLONE3, ahead, syscalls.CLONE_ARGS_SIZE, 0, 0, 0)
        if child < 0:  # more namespaces than the host allows: the next request is told, if it wants any
            made_ahead = 0
            child = bare.syscall(bare.CLONE3, plain, syscalls.CLONE_ARGS_SIZE, 0, 0, 0)
        if child == 0:
            be_supervisor(offer, made_ahead)
        bare.write(made, pid, 4)
    os._exit(0)
