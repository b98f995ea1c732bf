"""The seal of a layer that is kept as a directory tree: by it a changed byte, mode, owner or attribute is
found, and a name that is missing or was added.

One SHA-256 over everything, of contents their CRC-32: that finds accidents, and costs an unpacking next to
nothing; the bytes were checked by SHA-256 when they came (erofs/file.py has the same for files).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import msgspec
from isal import isal_zlib

from mesocosm.linux import beneath
from mesocosm.linux.holes import next_data

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE: Final = 1 << 20
_POLYNOMIAL: Final = 0xEDB88320  # of CRC-32, its bits reversed (ITU-T V.42)
_ONES: Final = 0xFFFFFFFF
_OURS: Final = ("user.", "trusted.overlay.", "security.capability")
"""Attributes that a layer can have; labels, measurements and access lists are the host's to change."""

Attributes = list[tuple[str, bytes]]


class Source(Protocol):
    """Where the seal has what is costly: files' contents and attributes."""

    def content(self, status: os.stat_result, folder: int, name: bytes) -> int:
        """The CRC-32 of a regular file that is not empty, in the directory that ``folder`` holds."""

    def attributes(self, status: os.stat_result, where: bytes) -> Attributes:
        """The attributes that a layer can have, of what is no directory, sorted."""


class Content:
    """The running CRC-32 of a file's content, which may have holes."""

    __slots__ = ("_size", "value")

    def __init__(self) -> None:
        self.value = 0
        self._size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take what comes next."""
        self.value = isal_zlib.crc32(data, self.value)
        self._size += len(data)

    def skip_to(self, offset: int) -> None:
        """Take zeros up to ``offset``, however many."""
        if offset > self._size:
            self.value = _with_zeros(self.value, offset - self._size)
            self._size = offset


def seal_of_tree(root: Path, source: Source) -> str:
    """Return the seal of the tree at ``root``: ``tree-crc32:<64 hex>``; blocking.  Raises OSError.

    Takes in, of each name in order: path, mode, owner, time in nanoseconds (of all but hard links, which say
    what else they are a name of), attributes, what a link says, a device's number, size and content.
    """
    running = hashlib.sha256()
    root_fd = os.open(root, _DIRECTORY)
    try:
        for line in _lines(root_fd, source):
            running.update(line)
    finally:
        os.close(root_fd)
    return f"tree-crc32:{running.hexdigest()}"


def _lines(root_fd: int, source: Source) -> Iterator[bytes]:
    encode = msgspec.msgpack.Encoder().encode
    linked: dict[int, bytes] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        fd = beneath.open_beneath(root_fd, path or b".", _DIRECTORY)
        try:
            prefix, folder = path + b"/" if path else b"", b"/proc/self/fd/%d/" % fd
            yield encode((_look(os.fstat(fd), path), attributes_of(folder + b".")))
            below = []
            for name in sorted(map(os.fsencode, os.listdir(fd))):  # noqa: PTH208
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    below.append(prefix + name)
                    continue
                if status.st_nlink > 1 and linked.setdefault(status.st_ino, prefix + name) != prefix + name:
                    yield encode((prefix + name, linked[status.st_ino]))
                    continue
                attributes = source.attributes(status, folder + name)
                held = _held(status, fd, name, source)
                yield encode((_look(status, prefix + name), attributes, held))
            pending += reversed(below)
        finally:
            os.close(fd)


def _look(status: os.stat_result, path: bytes) -> tuple[bytes, int, int, int, int]:
    """A name as the archive has it: what a whiteout became has no time of its own."""
    is_whiteout = stat.S_ISCHR(status.st_mode) and not status.st_rdev
    time = 0 if is_whiteout else status.st_mtime_ns
    return path, status.st_mode, status.st_uid, status.st_gid, time


def _held(status: os.stat_result, fd: int, name: bytes, source: Source) -> tuple[int, int] | bytes | int:
    """What a name holds that is no directory."""
    if stat.S_ISREG(status.st_mode):
        return status.st_size, source.content(status, fd, name) if status.st_size else 0
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(name, dir_fd=fd)
    return status.st_rdev


def attributes_of(path: bytes) -> Attributes:
    """The attributes that a layer can have, sorted; of a link itself."""
    return [
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(os.listxattr(path, follow_symlinks=False))
        if name.startswith(_OURS)
    ]


class Written:
    """A tree that has just been written, by inode: what files got, whatever became of it on the way to the
    disk, and which have attributes.
    """

    def __init__(self) -> None:
        self._sums: dict[int, int] = {}
        self._dressed: set[int] = set()

    def add(self, fd: int, content: Content, *, dressed: bool) -> None:
        """Note a regular file; ``dressed``: it has attributes."""
        inode = os.fstat(fd).st_ino
        self._sums[inode] = content.value
        if dressed:
            self._dressed.add(inode)

    def content(self, status: os.stat_result, folder: int, name: bytes) -> int:
        """As `Source.content`."""
        del folder, name
        return self._sums[status.st_ino]

    def attributes(self, status: os.stat_result, where: bytes) -> Attributes:
        """As `Source.attributes`."""
        return attributes_of(where) if status.st_ino in self._dressed else []


class Reading:
    """A tree on the disk, read again."""

    def __init__(self, passed: Callable[[int], None] | None = None, *, fresh: bool = False) -> None:
        """``passed`` is told of bytes read; ``fresh``: what counts is what the disk has."""
        self._passed = passed or _nobody
        self._fresh = fresh

    def content(self, status: os.stat_result, folder: int, name: bytes) -> int:
        """As `Source.content`."""
        fd = os.open(name, _READ, dir_fd=folder)
        try:
            if self._fresh:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return _content(fd, status.st_size, self._passed)
        finally:
            os.close(fd)

    def attributes(self, status: os.stat_result, where: bytes) -> Attributes:
        """As `Source.attributes`."""
        del status
        return attributes_of(where)


def _content(fd: int, size: int, passed: Callable[[int], None]) -> int:
    content, at = Content(), 0
    while (at := next_data(fd, at, size)) < size:
        content.skip_to(at)
        piece = os.pread(fd, min(_PIECE, size - at), at)
        if not piece:
            break
        content.update(piece)
        at += len(piece)
        passed(len(piece))
    content.skip_to(size)
    return content.value


def _nobody(count: int) -> None:
    del count


def _with_zeros(value: int, count: int) -> int:
    """The CRC-32 of what had ``value``, and ``count`` bytes of zero behind it.

    A zero byte multiplies the polynomial in the register by x^8, so ``count`` of them by x^8 to the power of
    ``count``, in as many steps as that number has bits.
    """
    factor, power = 1 << 31, 1 << 23  # 1 and x^8; the highest bit is the lowest power of x
    while count:
        if count & 1:
            factor = _times(factor, power)
        power = _times(power, power)
        count >>= 1
    return _times(factor, value ^ _ONES) ^ _ONES


def _times(one: int, two: int) -> int:
    """The product of two polynomials over GF(2), modulo CRC-32's."""
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= two
        two = two >> 1 ^ (_POLYNOMIAL if two & 1 else 0)
    return product
