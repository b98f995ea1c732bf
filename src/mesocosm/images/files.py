"""Files of the image store: written whole, read with what fails named, locked while a process lives."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from mesocosm.errors import Corrupt

_NOBODYS: Final = stat.S_IXUSR
"""Marks an unfinished file that nobody would go on with: a bit of the mode that means nothing else here, and
that every file system has.
"""


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte: ``write(2)`` may stop short at a signal or a limit."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_at(fd: int, buffer: memoryview, offset: int, what: object) -> int:
    """Read into ``buffer`` and return how many bytes came; Corrupt, naming ``what``, where the disk fails."""
    try:
        return os.preadv(fd, [buffer], offset)
    except OSError as error:
        raise unreadable(what, error) from error


def unreadable(what: object, error: OSError) -> Corrupt:
    """The error for bytes of ours that the disk does not give back."""
    return Corrupt(f"{what} cannot be read: {error.strerror}", hint="check the disk")


def open_locked(path: Path) -> int | None:
    """Open or make the file and take its lock; None when somebody holds it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not try_flock(fd):
            os.close(fd)
            return None
        # Between open and flock it may have been published or swept: a lock on that inode guards nothing.
        if same_file(fd, path):
            return fd
        os.close(fd)


def set_resumable(fd: int, *, resumable: bool) -> None:
    """Say whether anybody would go on with the file, should its holder die."""
    mode = 0o600 | (0 if resumable else _NOBODYS)
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
        os.fchmod(fd, mode)


def try_flock(fd: int) -> bool:
    """Take the lock on an open file; whether it was free."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same_file(fd: int, path: Path) -> bool:
    """Whether ``path`` still is the open file."""
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)


def remove_if_idle(path: Path, older_than: float | None) -> int:
    """Unlink ``path`` unless somebody holds its lock; return the bytes freed.

    ``older_than``, seconds since the epoch, spares what was written to later and may be resumed.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        held = os.fstat(fd)
        young = older_than is not None and held.st_mtime >= older_than and not held.st_mode & _NOBODYS
        if young or not stat.S_ISREG(held.st_mode) or not try_flock(fd) or not same_file(fd, path):
            return 0
        path.unlink()
        return held.st_size
    finally:
        os.close(fd)
