"""The mould: a process that does nothing but fork supervisors.

What a supervisor and the process it was forked from both leave alone, they share.  The zygote is busy and
writes to its memory all the time; the mould is not, so that the supervisors' memory stays shared.  They are
the zygote's children all the same (CLONE_PARENT), and the mould ends with the zygote.
"""

from __future__ import annotations

import os

from mesocosm.launch.supervisor import be_supervisor
from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mesocosm.launch.offer import Offer


_SIBLING = syscalls.clone3_arguments(syscalls.CLONE_PARENT, exit_signal=0)


def cast(orders: int, made: int, offers: tuple[Offer, ...]) -> NoReturn:
    """Fork a supervisor for each byte read from ``orders``, an index of ``offers``; write its pid to
    ``made``.

    Never returns.
    """
    while True:
        order = os.read(orders, 1)
        if not order:
            os._exit(0)
        pid = syscalls.clone3_prepared(_SIBLING)
        if not pid:
            be_supervisor(offers[order[0]])
        os.write(made, pid.to_bytes(4, "little"))
