"""What is made in ``ingest/`` before it stands under its name: directories, and small records.

All of it is flock-held, like every unfinished blob there: what a crash leaves is swept, and what somebody is
working on is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mesocosm.durable import sync
from mesocosm.images.files import open_locked, write_all
from mesocosm.images.store_faults import store_faults
from mesocosm.linux import beneath, mounts
from mesocosm.linux.mountinfo import mounts_below, read_mountinfo

KINDS: Final = ("looks-", "trial-", "proof-")
"""How their names begin."""


@contextlib.contextmanager
def staged(ingest: Path, kind: str) -> Iterator[Path]:
    """Yield a new, empty directory in ``ingest``; removed afterwards unless it was renamed.  Blocking."""
    with store_faults(ingest.parent):
        path, fd = _new(ingest, kind)
    try:
        yield path
    finally:
        discard(path)
        os.close(fd)


def _new(ingest: Path, kind: str) -> tuple[Path, int]:
    while True:
        path = ingest / f"{kind}{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        fd = _locked(path)
        if fd is not None:
            return path, fd


def replace(ingest: Path, target: Path, data: bytes, *, durable: bool = True) -> None:
    """Let ``target``, on the same file system, have ``data``: whole, or what it was.  Blocking.

    Without ``durable`` a power cut may undo it, or leave an empty file.
    """
    with store_faults(ingest.parent):
        path = ingest / f"record-{secrets.token_hex(8)}"
        fd = None
        while fd is None:  # a sweep may see the file before its lock is ours
            fd = open_locked(path)
        try:
            write_all(fd, data)
            if durable:
                os.fsync(fd)
            path.rename(target)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        if durable:
            sync(target.parent)


def sweep(ingest: Path) -> None:
    """Remove those that nobody works in any more.  Blocking."""
    for name in os.listdir(ingest):  # noqa: PTH208
        if name.startswith(KINDS):
            fd = _locked(ingest / name)
            if fd is not None:
                _unmount_below(ingest / name)
                discard(ingest / name)
                os.close(fd)


def _unmount_below(path: Path) -> None:
    """Older kernels mount upon a directory for a moment when they make an overlay; a crash leaves that."""
    for entry in mounts_below(read_mountinfo(), str(path.resolve())):
        mounts.detach(entry.mount_point)


def discard(path: Path) -> None:
    """Remove a tree of ours, whatever a layer put into it."""
    parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        beneath.remove_tree(parent, path.name)
    finally:
        os.close(parent)


def _locked(path: Path) -> int | None:
    """The directory's descriptor with its lock; None when somebody holds it, or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink > 0 and path.exists():
            return fd
    except BlockingIOError:
        pass
    os.close(fd)
    return None
