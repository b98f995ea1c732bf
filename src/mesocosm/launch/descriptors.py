"""Descriptor numbers that supervisor and child agree on.

The two share one table of descriptors until the child has got its request: what it opens for the supervisor
lies at these numbers, what it keeps for itself at `CHILD_FIRST` and above.  Then the child takes a table of
its own, and neither has anything of the other's.
"""

from __future__ import annotations

import fcntl
import os

from mesocosm.launch import channel
from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SIGNALS = 3
"""A signalfd(2) for SIGCHLD: whoever reads it reads its own signals, so one serves zygote and supervisors."""
REPORT = 19
"""The supervisor's end of the socket to the child."""
SESSION = 20
"""Directory of the session."""
LOCK = 21
"""The locked file that proves the supervisor alive."""
SOCKET = 22
"""The listening socket whose end tells those who wait that exit.json is there."""
STDOUT = 23
STDERR = 24
"""Read ends of the payload's output."""
STDOUT_FILE = 25
STDERR_FILE = 26
INDEX_FILE = 27
"""Where the payload's output is written to."""
HOME = 28
"""The zygote, by pidfd: its namespaces are the host's.  Supervisor and child go back to them each in its own
time, so neither closes it while the table is one.
"""

SUPERVISOR_END = 32
CHILD_FIRST = 32
CHILD_END = 120
"""Below 128: to make a table larger that two processes share, the kernel waits for milliseconds."""


def to_child_range(fd: int) -> int:
    """Move a descriptor to where the supervisor closes it; its new number."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, CHILD_FIRST)
    os.close(fd)
    return moved


def place(fd: int, number: int) -> None:
    """Move a descriptor to a number for the supervisor."""
    os.dup2(fd, number, inheritable=False)
    os.close(fd)


def part(kept: Sequence[int]) -> None:
    """Take a table of our own that holds ``kept``, in the child's range, and 0 to 2; the other one loses
    them.

    The supervisor sleeps meanwhile and cannot close what is not its own.  So what we keep is sent to
    ourselves, closed for both, and received again once the tables are two.
    """
    ours, theirs = channel.pair()
    source = fcntl.fcntl(theirs.detach(), fcntl.F_DUPFD_CLOEXEC, CHILD_END)
    channel.send(ours, b"x", kept)
    os.closerange(CHILD_FIRST, CHILD_END)
    syscalls.unshare(syscalls.CLONE_FILES)
    ours.detach()
    os.closerange(3, SUPERVISOR_END)
    _, received = channel.receive(channel.adopt(source), 1)
    for number, fd in zip(kept, received, strict=True):
        os.dup2(fd, number, inheritable=False)
    os.closerange(3, SUPERVISOR_END)
