"""Processes by identity: pid and start time, held by pidfd.

A pid alone means nothing a moment later; pid and start time name one process for as long as the machine is up
(parity REC-6), and a pidfd keeps the pid from being taken for another one while it is looked at.
"""

from __future__ import annotations

import errno
import os
import select

from mesocosm.linux.syscalls import pidfd_open, pidfd_send_signal


class Identity(tuple[int, int]):
    """``(pid, start_time)``: one process of this boot.  Compare `boot_id` before trusting a recorded one."""

    __slots__ = ()

    def __new__(cls, pid: int, start_time: int) -> Identity:
        return super().__new__(cls, (pid, start_time))

    @property
    def pid(self) -> int:
        """Process ID as the reader's PID namespace sees it."""
        return self[0]

    @property
    def start_time(self) -> int:
        """Clock ticks from boot to the start of the process."""
        return self[1]

    def __repr__(self) -> str:
        return f"Identity(pid={self[0]}, start_time={self[1]})"


def boot_id() -> str:
    """The kernel's random name for this boot, random(4): 36 characters."""
    return _read("/proc/sys/kernel/random/boot_id").decode("ascii").strip()


def parse_start_time(line: bytes) -> int:
    """Field 22 of ``/proc/PID/stat``, proc(5).

    Field 2 is the command's name, which the process chooses and which may hold spaces and parentheses: the
    fields are counted from the last ``)``.
    """
    _, parenthesis, rest = line.rpartition(b")")
    fields = rest.split()
    if not parenthesis or len(fields) < 20 or not fields[19].isdigit():
        raise ValueError(f"not a line of /proc/PID/stat: {line[:80]!r}")
    return int(fields[19])


def start_time(pid: int, proc: int | None = None) -> int:
    """Clock ticks from boot to the start of ``pid``.  ProcessLookupError when there is no such process.

    ``proc`` is a descriptor of the procfs to ask, whose PID namespace ``pid`` is a number of.
    """
    try:
        path = f"/proc/{pid}/stat" if proc is None else f"{pid}/stat"
        return parse_start_time(_read(path, proc))
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, "no such process", f"pid {pid}") from None


def identify(pid: int) -> Identity:
    """The identity of a process that cannot be replaced just now: a child not yet reaped, or held by
    pidfd.
    """
    return Identity(pid, start_time(pid))


def hold(pid: int, started: int) -> int | None:
    """A pidfd of the process with this start time; None when it is gone, whoever has its pid now.

    The start time is read after the pidfd is open: from then on nobody else can take the pid unnoticed.
    """
    try:
        fd = pidfd_open(pid)
    except OSError as error:
        # EINVAL, from Linux 6.9 ENOENT: the number belongs to a thread that leads no process.
        if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            raise
        return None
    try:
        same = start_time(pid) == started
    except ProcessLookupError:
        same = False
    if not same:
        os.close(fd)
        return None
    return fd


def is_alive(pid: int, started: int) -> bool:
    """Whether exactly this process runs.  One that is ending, or has ended but is not reaped, does not."""
    fd = hold(pid, started)
    if fd is None:
        return False
    try:
        return not has_ended(fd) and not _is_ending(pid)
    finally:
        os.close(fd)


def _is_ending(pid: int) -> bool:
    """Whether it runs no instruction any more: its sockets are closed before its pidfd tells of the end.

    The kernel's exit_files takes the table of descriptors away first, and procfs shows a size of 0.
    """
    try:
        return read_status(pid).get("FDSize") == "0"
    except ProcessLookupError:
        return True


def has_ended(pidfd: int, timeout: float = 0) -> bool:
    """Whether the held process has ended, reaped or not, waiting at most ``timeout`` seconds for it."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def wait(pidfd: int) -> int:
    """Wait for a child held by ``pidfd`` and reap it: its exit status, or minus the signal that killed it."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    if result is None:
        raise ChildProcessError(errno.ECHILD, "nothing to wait for")
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def send_signal(pidfd: int, signal: int) -> bool:
    """Signal the held process; False when it is gone."""
    try:
        pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        return False
    return True


def read_status(pid: int | str) -> dict[str, str]:
    """The fields of ``/proc/PID/status``, proc(5), such as "CapBnd" or "NSpid", as text.

    ``Name`` is the process' own choice; the kernel escapes its newlines, so that it cannot forge a field.
    """
    try:
        text = _read(f"/proc/{pid}/status").decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, "no such process", f"pid {pid}") from None
    fields = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            fields[name] = value.strip()
    return fields


def command_line(pid: int | str) -> list[str]:
    """The argument vector as the process shows it, at most 64 KiB; empty for a zombie or a kernel thread."""
    raw = _read(f"/proc/{pid}/cmdline")
    return [os.fsdecode(word) for word in raw.removesuffix(b"\0").split(b"\0")] if raw else []


def children(pid: int) -> list[int]:
    """The children of all threads of a process.  Complete only while none is made or ends."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except FileNotFoundError:
        return found
    for thread in threads:
        try:
            found += [int(word) for word in _read(f"/proc/{pid}/task/{thread}/children").split()]
        except FileNotFoundError:
            continue
    return found


def all_pids() -> list[int]:
    """The processes that this PID namespace shows."""
    return [int(name) for name in os.listdir("/proc") if name.isascii() and name.isdigit()]  # noqa: PTH208


def _read(path: str, directory: int | None = None) -> bytes:
    """A small file of procfs in as few reads as it takes; a process that ends meanwhile is
    FileNotFoundError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        content = b""
        while piece := os.read(fd, 65536):
            content += piece
            if len(content) >= 65536:
                break
        return content
    except ProcessLookupError:
        raise FileNotFoundError(errno.ENOENT, "ended while it was read", path) from None
    finally:
        os.close(fd)
