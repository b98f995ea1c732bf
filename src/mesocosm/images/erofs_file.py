"""The file that an EROFS image is written to: appended to, sealed, and made mountable by its last write.

The superblock's place stays a hole until everything else is on the disk, so a file torn by a crash has no
magic number and cannot be mounted.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Literal

from isal import isal_zlib

from mesocosm.errors import Exhausted
from mesocosm.images.digest import Hash

HEAD = 4096
"""Bytes in front of the data: the superblock's page."""

SealKind = Literal["sha256", "crc32"]

_FLUSH_BYTES = 1 << 20
_FLUSH_PIECES = 512
"""writev(2) takes IOV_MAX (1024) pieces."""

_READ = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Crc32:
    """CRC-32 with the interface of a hash object; isal computes it ten times faster than SHA-256."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._value = isal_zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def new_seal(kind: SealKind) -> Hash:
    """Return the running hash of a seal."""
    return hashlib.sha256() if kind == "sha256" else Crc32()


def seal_text(kind: SealKind, running: Hash) -> str:
    """Return a seal as it is recorded: ``head-last-sha256:<hex>`` or ``head-last-crc32:<hex>``."""
    return f"head-last-{kind}:{running.hexdigest()}"


def seal_of(fd: int, kind: SealKind) -> str:
    """Return the seal of an open layer file, to compare with the recorded one.

    A seal covers the whole file, from `HEAD` to the end first and the head last: the order in which it is
    written.  It is no digest of the file as others compute it.
    """
    running = new_seal(kind)
    at = HEAD
    while piece := os.pread(fd, _READ, at):
        running.update(piece)
        at += len(piece)
    running.update(os.pread(fd, HEAD, 0))
    return seal_text(kind, running)


class LayerFile:
    """A new file at ``path``, which must not exist, that is only ever appended to.

    Exhausted when the disk is full or ``limit`` bytes are exceeded; other failures are OSError.  Pieces
    given to `append` are kept until they are written.
    """

    def __init__(self, path: Path, *, limit: int) -> None:
        self.path = path
        self.position = HEAD
        self.seal: Hash | None = None
        self._limit = limit
        self._pending: list[bytes | memoryview] = []
        self._pending_bytes = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        os.lseek(self._fd, HEAD, os.SEEK_SET)

    def append(self, piece: bytes | memoryview) -> None:
        """Write ``piece`` behind what was written so far."""
        size = len(piece)
        self._pending.append(piece)
        self.position += size
        self._pending_bytes += size
        if self._pending_bytes > _FLUSH_BYTES or len(self._pending) >= _FLUSH_PIECES:
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
        """Hand what is pending to the kernel."""
        if self.position > self._limit:
            raise Exhausted(f"layer file grows beyond {self._limit} bytes", hint="raise the limit on size")
        pending, self._pending = self._pending, []
        size, self._pending_bytes = self._pending_bytes, 0
        if self.seal is not None:
            for piece in pending:
                self.seal.update(piece)
        try:
            written = os.writev(self._fd, pending) if pending else 0
            if written < size:
                self._write_rest(memoryview(b"".join(pending))[written:])
        except OSError as error:
            raise _translated(error, self.path) from error

    def _write_rest(self, rest: memoryview) -> None:
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def read(self, size: int, offset: int) -> bytes:
        """Read back what was appended and flushed."""
        return os.pread(self._fd, size, offset)

    def finish(self, head: bytes) -> int:
        """Make the file durable, then mountable: its head last.  Returns the file's size."""
        self.flush()
        try:
            os.fdatasync(self._fd)
            os.pwrite(self._fd, head.ljust(HEAD, b"\0"), 0)
            os.fsync(self._fd)
        except OSError as error:
            raise _translated(error, self.path) from error
        if self.seal is not None:
            self.seal.update(head.ljust(HEAD, b"\0"))
        os.close(self._fd)
        self._fd = -1
        return self.position

    def abort(self) -> None:
        """Remove the file; nothing happens when it is finished already."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        self.path.unlink(missing_ok=True)


def _translated(error: OSError, path: Path) -> Exception:
    if error.errno in _FULL:
        return Exhausted(
            f"no space left for the layer file {path}", hint="free space, or collect unused images"
        )
    return error
