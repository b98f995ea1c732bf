"""Directories of the store's own for as long as something is made in them.

They lie in ``ingest/`` and are flock-held, like every unfinished file there: what a crash leaves of them is
swept like any other leftover, and what somebody is working in is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mesocosm.linux import beneath

KINDS: Final = ("looks-", "trial-", "proof-")
"""How their names begin."""


@contextlib.contextmanager
def staged(ingest: Path, kind: str) -> Iterator[Path]:
    """Yield a new, empty directory in ``ingest``; removed afterwards unless it was renamed.  Blocking."""
    while True:
        path = ingest / f"{kind}{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        fd = _locked(path)
        if fd is not None:
            break
    try:
        yield path
    finally:
        discard(path)
        os.close(fd)


def sweep(ingest: Path) -> None:
    """Remove those that nobody works in any more.  Blocking."""
    for name in os.listdir(ingest):  # noqa: PTH208
        if name.startswith(KINDS):
            fd = _locked(ingest / name)
            if fd is not None:
                discard(ingest / name)
                os.close(fd)


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
