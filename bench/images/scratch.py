"""A fresh ext4 for every sample, in memory.

After a mass delete ext4 avoids the inodes that were freed lately, which slows down for minutes whoever makes
files next; and a disk's own noise would hide what is measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

SIZE = 4 << 30
"""Bytes; the file is sparse."""

_TRIES = 100
_libc = ctypes.CDLL(None, use_errno=True)


class Scratch:
    """A file system in the file ``image``, mounted on ``path`` while the context lasts."""

    def __init__(self, home: Path) -> None:
        self._image = home / "scratch.ext4"
        self.path = home / "scratch"

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """Make it anew, and mount it."""
        self.path.mkdir(exist_ok=True)
        self._image.unlink(missing_ok=True)
        with open(self._image, "wb") as file:
            file.truncate(SIZE)
        _run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", str(self._image))
        self._mount()
        try:
            yield self.path
        finally:
            self._unmount()
            self._image.unlink()

    def chill(self) -> None:
        """Mount it again, so that nothing of it is cached."""
        self._unmount()
        self._mount()

    def _unmount(self) -> None:
        """The kernel lets go of mounts that are gone a little later."""
        for _ in range(_TRIES):
            if (
                subprocess.run(("umount", str(self.path)), stderr=subprocess.DEVNULL, check=False).returncode
                == 0
            ):
                return
            time.sleep(0.1)
        _run("umount", str(self.path))

    def _mount(self) -> None:
        _run("mount", "-o", "loop,noinit_itable", str(self._image), str(self.path))


def sync(path: Path) -> None:
    """Make everything on the file system of ``path`` durable (syncfs(2))."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if _libc.syncfs(fd) < 0:
            raise OSError(ctypes.get_errno(), "syncfs", str(path))
    finally:
        os.close(fd)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
