"""The file that an EROFS image is written to: appended to, sealed, and made mountable by its last write.

The superblock's place stays a hole until everything else is on the disk, so a file torn by a crash has no
magic number and cannot be mounted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from isal import isal_zlib

from mesocosm.errors import Exhausted
from mesocosm.images.digest import Hash

HEAD = 4096
"""Bytes in front of the data: the superblock's page."""

SealKind = Literal["sha256", "crc32"]

_BUFFER = 4 << 20
_ZEROES = bytes(HEAD)
_READ = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Crc32:
    """CRC-32 with the interface of a hash object; isal computes it ten times faster than SHA-256."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take more bytes."""
        self._value = isal_zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        """Return the sum so far, eight hexadecimal digits."""
        return f"{self._value:08x}"


def new_seal(kind: SealKind) -> Hash:
    """Return the running hash of a seal."""
    return hashlib.sha256() if kind == "sha256" else Crc32()


def seal_text(kind: SealKind, running: Hash) -> str:
    """Return a seal as it is recorded: ``head-last-sha256:<hex>`` or ``head-last-crc32:<hex>``."""
    return f"head-last-{kind}:{running.hexdigest()}"


def seal_of(fd: int, kind: SealKind, passed: Callable[[int], None] | None = None) -> str:
    """Return the seal of an open layer file, to compare with the recorded one.  ``passed`` is told of bytes
    read.

    A seal covers the whole file, from `HEAD` to the end first and the head last: the order in which it is
    written.  It is no digest of the file as others compute it.
    """
    running = new_seal(kind)
    at = HEAD
    while piece := os.pread(fd, _READ, at):
        running.update(piece)
        at += len(piece)
        if passed is not None:
            passed(len(piece))
    head = os.pread(fd, HEAD, 0)
    running.update(head)
    if passed is not None:
        passed(len(head))
    return seal_text(kind, running)


class LayerFile:
    """A new file at ``path``, which must not exist, that is only ever appended to.

    Exhausted when the disk is full or ``limit`` bytes are exceeded; other failures are OSError.

    Written past the page cache where the file system lets us (open(2), O_DIRECT): layers are mounted with
    direct reads, so cached pages would only push out what containers use, and filling them costs more CPU
    time than everything else that is done to a byte but inflating and hashing.
    """

    def __init__(self, path: Path, *, limit: int) -> None:
        self.path = path
        self.position = HEAD
        self.seal: Hash | None = None
        """Takes what is written from `seal_from` on; None for none."""
        self._limit = limit
        self._fd = _create(path)
        self._view = memoryview(_buffer())
        self._fill = 0
        self._written = HEAD

    def append(self, piece: bytes | memoryview) -> None:
        """Write ``piece`` behind what was written so far."""
        size = len(piece)
        fill = self._fill
        end = fill + size
        if end <= _BUFFER:
            self._view[fill:end] = piece
            self._fill = end
            self.position += size
        else:
            self._append_in_parts(memoryview(piece))

    def append_blocks(self, piece: memoryview) -> None:
        """Write ``piece``, and zeroes up to the next page."""
        fill = self._fill
        end = fill + len(piece)
        full = end + -end % HEAD
        if full <= _BUFFER:
            self._view[fill:end] = piece
            if end < full:
                self._view[end:full] = _ZEROES[: full - end]
            self._fill = full
            self.position += full - fill
        else:
            self.append(piece)
            self.pad(HEAD)

    def _append_in_parts(self, piece: memoryview) -> None:
        while piece:
            step = min(len(piece), _BUFFER - self._fill)
            self._view[self._fill : self._fill + step] = piece[:step]
            self._fill += step
            self.position += step
            piece = piece[step:]
            if self._fill == _BUFFER:
                self.flush()

    def pad(self, alignment: int) -> None:
        """Write zeroes up to a multiple of ``alignment``."""
        missing = -self.position % alignment
        if missing:
            self.append(bytes(missing))

    def fill(self, count: int) -> None:
        """Write ``count`` zeroes."""
        for step in range(0, count, _READ):
            self.append(bytes(min(_READ, count - step)))

    def flush(self) -> None:
        """Hand whole pages to the kernel; less than one stays in the buffer."""
        if self.position > self._limit:
            raise Exhausted(f"layer file grows beyond {self._limit} bytes", hint="raise the limit on size")
        whole = self._fill & -HEAD
        if not whole:
            return
        if self.seal is not None:
            self.seal.update(self._view[:whole])
        try:
            self._write(self._view[:whole], self._written)
        except OSError as error:
            raise _translated(error, self.path) from error
        self._written += whole
        self._fill -= whole
        if self._fill:
            self._view[: self._fill] = bytes(self._view[whole : whole + self._fill])

    def _write(self, rest: memoryview, offset: int) -> None:
        while rest:
            try:
                step = os.pwrite(self._fd, rest, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._go_through_cache():
                    raise
                continue
            rest = rest[step:]
            offset += step
            if step & (HEAD - 1):
                self._go_through_cache()

    def _go_through_cache(self) -> bool:
        """Give direct writing up: the device wants another alignment.  False when that was done already."""
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        if not flags & os.O_DIRECT:
            return False
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        return True

    def start_seal(self, running: Hash) -> None:
        """Seal from here on; the position must be a multiple of `HEAD`."""
        self.flush()
        self.seal = running

    def reader(self) -> int:
        """Open what was flushed for reading."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def finish(self, head: bytes) -> int:
        """Make the file durable, then mountable: its head last.  Returns the file's size."""
        self.pad(HEAD)
        self.flush()
        try:
            os.fdatasync(self._fd)
            self._view[:HEAD] = head.ljust(HEAD, b"\0")
            self._write(self._view[:HEAD], 0)
            os.fsync(self._fd)
        except OSError as error:
            raise _translated(error, self.path) from error
        if self.seal is not None:
            self.seal.update(head.ljust(HEAD, b"\0"))
        self._close()
        return self.position

    def abort(self) -> None:
        """Remove the file; nothing happens when it is finished already."""
        if self._fd < 0:
            return
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1
        self._view = memoryview(b"")


def _buffer() -> mmap.mmap:
    """Memory to write from, in huge pages where the kernel has them: what goes to the disk directly is
    pinned page by page.  They are for private memory (madvise(2), MADV_HUGEPAGE).
    """
    buffer = mmap.mmap(-1, _BUFFER, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            os.close(fd)
            raise
    return fd


def _translated(error: OSError, path: Path) -> Exception:
    if error.errno in _FULL:
        return Exhausted(
            f"no space left for the layer file {path}", hint="free space, or collect unused images"
        )
    return error
