"""Archives to be read in place, wherever in them: one that is compressed is decompressed first, once, into a
spool of the store's.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from pathlib import Path

from mesocosm.images.archive import open_regular
from mesocosm.images.blobs import BlobStore
from mesocosm.images.spool import settled

_Stamp = tuple[Path, int, int, int, int]
"""A file, and what is another when its bytes are: device, inode, size, nanoseconds of its last change."""


class PlainFile:
    """The bytes of ``name``, decompressed; they are at ``path`` for as long as somebody has this,
    or until `close`.
    """

    def __init__(self, blobs: BlobStore, name: Path, stopped: threading.Event) -> None:
        """Blocking; ``stopped`` ends it early.  Raises what `spool.settled` does."""
        self.name = name
        with contextlib.ExitStack() as stack:
            self.path = stack.enter_context(settled(blobs, name, plain=True, stopped=stopped))
            self.close = weakref.finalize(self, stack.pop_all().close)


class PlainFiles:
    """Makes them, and keeps the latest: whoever asks what an archive has asks for an image of it next."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._all: weakref.WeakSet[PlainFile] = weakref.WeakSet()
        self._latest: tuple[_Stamp, PlainFile] | None = None

    def get(self, name: Path, stopped: threading.Event) -> PlainFile:
        """The file as it is now; blocking.  Raises NotFound, InvalidConfig, Corrupt, Exhausted."""
        with self._lock:
            stamp = _stamp(name)
            if self._latest is None or self._latest[0] != stamp:
                self._latest = None
                self._latest = stamp, PlainFile(self._blobs, name, stopped)
                self._all.add(self._latest[1])
            return self._latest[1]

    def close(self) -> None:
        """Let go of all of them, whoever still has one."""
        self._latest = None
        for file in list(self._all):
            file.close()


def _stamp(name: Path) -> _Stamp:
    fd = open_regular(name)
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    return name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
