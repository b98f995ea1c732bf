"""The mould: a process that does nothing but fork supervisors.

What a supervisor and the process it was forked from both leave alone, they share.  The zygote is busy and
writes to its memory all the time; the mould is not, so that the supervisors' memory stays shared.  They are
the zygote's children all the same (CLONE_PARENT), and the mould ends with the zygote.
"""

from __future__ import annotations

import ctypes
import os

from mesocosm.launch import bare
from mesocosm.launch.supervisor import be_supervisor
from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mesocosm.launch.offer import Offer

_CLONE3 = syscalls.NUMBERS["clone3"]
_pid = ctypes.c_int()
_order = ctypes.create_string_buffer(1)
_SIBLING = ctypes.create_string_buffer(
    syscalls.clone3_arguments(
        syscalls.CLONE_PARENT | syscalls.CLONE_PARENT_SETTID, exit_signal=0, parent_tid=ctypes.addressof(_pid)
    )
)
_WHERE = tuple(map(ctypes.addressof, (_order, _SIBLING, _pid)))


def cast(orders: int, made: int, offer: Offer) -> NoReturn:
    """Fork a supervisor for each byte read from ``orders``; write its pid to ``made``.  Never returns.

    What the mould writes to, its supervisors no longer share with it.
    """
    order, sibling, pid = _WHERE
    while bare.read(orders, order, 1) == 1:
        if bare.syscall(_CLONE3, sibling, syscalls.CLONE_ARGS_SIZE, 0, 0, 0) == 0:
            be_supervisor(offer)
        bare.write(made, pid, 4)
    os._exit(0)
