"""Files that survive: whole or absent, never torn.

Every write is a temporary file in the same directory, fsync, rename, fsync of the directory (GAP-43: Mesos
left the fsync out and lost nodes to zero-length files after power cuts).  What speaks of this boot only, and
is thrown away after the next, is replaced without the two.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from mesocosm import trace
from mesocosm.errors import Corrupt, Unavailable

SIZE_LIMIT = 8 << 20


def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``, durably and atomically.  Raises OSError."""
    _replace(path, data, mode, os.fsync)
    sync(path.parent)


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data`` atomically, for what means nothing after a reboot.  Raises OSError.

    Whoever reads it sees all or nothing, whichever process is killed; only a power cut may tear it.
    """
    _replace(path, data, mode, None)


def _replace(path: Path, data: bytes, mode: int, settle: Callable[[int], None] | None) -> None:
    temporary = f"{path.parent}/.{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if settle:
                settle(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)  # noqa: PTH104
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def require_writable(path: Path) -> None:
    """Raise Unavailable where ``path``, or what there is above it, is on a read-only mount (statvfs(3))."""
    try:
        flags = os.statvfs(path).f_flag
    except FileNotFoundError:
        return require_writable(path.parent)
    if flags & os.ST_RDONLY:
        raise Unavailable(
            f"cannot write in {path}: Read-only file system",
            hint="what is there can be looked at; mount it writable for more",
        )
    return None


def private_directory(path: Path) -> None:
    """Make a directory, and what is missing above it, for our own user only, whatever the umask (R-39)."""
    if not path.is_dir():
        private_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, durable.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> bytes:
    """The bytes of a regular file of ours.  Raises FileNotFoundError, Corrupt for anything odd (Q-20)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Corrupt(f"{path} cannot be read: {error.strerror}") from error
    try:
        data = os.read(descriptor, min(os.fstat(descriptor).st_size, SIZE_LIMIT) + 1)
    except OSError as error:
        raise Corrupt(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if not data or len(data) > SIZE_LIMIT:
        raise Corrupt(f"{path} is {'empty' if not data else 'too large'}")
    return data


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive flock(2) on ``path``, made if missing; yields whether it was got.

    The file may be removed by its last holder, so after locking it is checked that ``path`` still is the
    locked file.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                trace.point("durable.waiting")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_file(descriptor, path):
                continue
            yield True
            return
        finally:
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether somebody holds ``path`` just now; one that is not there is held by nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        named = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


__all__ = ["locked", "private_directory", "read", "replace", "require_writable", "sync", "write"]
