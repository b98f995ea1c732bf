"""How a child takes a request: descriptors sorted, the session's files made, a table of its own.

lock           held (flock) as long as the supervisor lives
gate           listened on by the held child: ``start``
socket         listened on, and never answered, by the supervisor: its end is the payload's
process.json   identities of supervisor and payload
"""

from __future__ import annotations

import fcntl
import os
import time

from mesocosm.launch import channel, descriptors, documents, handshake
from mesocosm.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mesocosm.launch.channel import Socket

VERSION = 1
BACKLOG = 128

_FOR_SUPERVISOR = {
    "session": descriptors.SESSION,
    "stdout": descriptors.STDOUT_FILE,
    "stderr": descriptors.STDERR_FILE,
    "index": descriptors.INDEX_FILE,
}


class Intake:
    """One request, in the hands of the child: what it asks for and the descriptors that are the child's.

    ``stdin`` is -1 for /dev/null.
    """

    __slots__ = ("channel", "gate", "plan", "session", "stdin", "timing")

    def __init__(self, message: dict[str, Any], received: list[int]) -> None:
        names = message["descriptors"]
        wanted = set(handshake.DESCRIPTORS).difference(handshake.OPTIONAL)
        if len(names) != len(received) or not wanted <= set(names):
            raise handshake.Garbled("descriptors and their names differ")
        self.timing: list[list[int | str]] | None = [] if message["timing"] else None
        mine: dict[str, int] = {}
        for name, fd in zip(names, received, strict=True):
            if name in _FOR_SUPERVISOR:
                os.dup2(fd, _FOR_SUPERVISOR[name], inheritable=False)
            else:
                mine[name] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, descriptors.CHILD_FIRST)
        for fd in received:
            os.close(fd)
        self.channel = channel.adopt(mine["channel"])
        self.plan = mine["plan"]
        self.stdin = mine.get("stdin", -1)
        self.session = descriptors.SESSION
        self.gate: Socket

    def open_session(self) -> None:
        """Make the session's files.  OSError when one cannot be made."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open("lock", flags, 0o600, dir_fd=self.session)
        descriptors.place(lock, descriptors.LOCK)
        fcntl.flock(descriptors.LOCK, fcntl.LOCK_EX)
        descriptors.place(self._listen("socket").detach(), descriptors.SOCKET)
        gate = self._listen("gate")
        self.gate = channel.adopt(descriptors.to_child_range(gate.detach()))

    def _listen(self, name: str) -> Socket:
        # A path through the descriptor: sun_path has 108 bytes, a session's directory may have more.
        os.umask(0o177)
        return channel.listen(f"/proc/self/fd/{self.session}/{name}", BACKLOG)

    def part(self, *others: int) -> None:
        """Take a table of descriptors of our own, with ours and ``others``."""
        self.session = descriptors.to_child_range(os.dup(descriptors.SESSION))
        own = (self.channel.fileno(), self.plan, self.gate.fileno(), self.session, self.stdin)
        descriptors.part([fd for fd in (*own, *others) if fd >= 0])

    def mark(self, name: str) -> None:
        """Note that ``name`` is done now, when the launcher asked for it."""
        if self.timing is not None:
            self.timing.append([name, time.monotonic_ns()])


def write_identities(session: int, supervisor: tuple[int, int], payload: tuple[int, int]) -> None:
    """Put process.json in the session's directory, whole."""
    content = {"version": VERSION, "supervisor": supervisor, "payload": payload}
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(".process.json", flags, 0o600, dir_fd=session)
    os.write(fd, documents.dumps(content))
    os.close(fd)
    os.rename(".process.json", "process.json", src_dir_fd=session, dst_dir_fd=session)


def identity_of_self() -> tuple[int, int]:
    """Pid and start time as the host's procfs shows them, also to a process in a PID namespace below."""
    own, _ = _own_facts()
    return own


def identities() -> tuple[tuple[int, int], tuple[int, int]]:
    """Our parent's and our own, likewise."""
    own, parent = _own_facts()
    return (parent, processes.start_time(parent)), own


def _own_facts() -> tuple[tuple[int, int], int]:
    """Pid, start time, and the parent's pid, proc_pid_stat(5)."""
    fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        line = os.read(fd, 4096)
    finally:
        os.close(fd)
    fields = line.rpartition(b")")[2].split()
    return (int(line.partition(b" ")[0]), int(fields[19])), int(fields[1])
