"""Image archives: the members of an uncompressed tar file, looked up in memory and read in place.

Names in an archive are keys of a table and never paths of the host (attack I-20): a member called
``../../etc/shadow`` is simply a key that nobody asks for, and a symbolic link is followed within the table
only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from mesocosm.errors import Corrupt, Exhausted, InvalidConfig, NotFound, Unsupported
from mesocosm.images.decompress import MAGIC_LENGTH, sniff
from mesocosm.images.digest import Digest, new_hash
from mesocosm.images.foreign import shown
from mesocosm.images.tar.reader import BLOCK, HARDLINK, EntrySink, TarEntry, TarReader
from mesocosm.images.transfer import in_thread

CHUNK: Final = 1 << 20
MEMBER_LIMIT: Final = 100_000
NO_ARCHIVE: Final = "it is no tar archive, or a damaged one"
_HOPS: Final = 8
_ZEROES = bytes(CHUNK)


class Span(msgspec.Struct, frozen=True):
    """Bytes of a file: where they begin, and how many there are."""

    offset: int
    size: int


class Archive:
    """The table of one archive's members.  Holds no descriptor: each read opens the file again.

    ``path`` is where the bytes are, ``name`` what a person calls the archive.
    """

    def __init__(self, path: Path, name: Path, files: dict[bytes, Span], links: dict[bytes, bytes]) -> None:
        self.path = path
        self.name = name
        self._files = files
        self._links = links

    @classmethod
    def open(cls, path: Path, *, name: Path | None = None) -> Archive:
        """Read the table of ``path``; blocking.  Raises NotFound, InvalidConfig, Corrupt, Unsupported."""
        fd = open_regular(path)
        name = name or path
        try:
            if os.fstat(fd).st_size == 0:
                raise Corrupt(f"archive {name} is empty")
            kind = sniff(os.pread(fd, MAGIC_LENGTH, 0))
            if kind != "none":
                raise Unsupported(f"archive {name} is compressed", hint=f"decompress it with {kind} -d first")
            table = _Table(name)
            _scan(fd, table)
        except Corrupt as error:
            if str(name) in error.message:
                raise
            raise Corrupt(f"archive {name}: {error.message}", hint=error.hint or NO_ARCHIVE) from error
        finally:
            os.close(fd)
        return cls(path, name, table.files, table.links)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def span(self, name: str) -> Span:
        """Return where the member's bytes are; raises Corrupt when there is no such regular member."""
        found = self._find(name)
        if found is None:
            raise Corrupt(f"archive {self.name} has no file {shown(name, 120)!r}")
        return found

    def read(self, name: str, limit: int) -> bytes:
        """Return a small member's bytes; blocking.  Corrupt when missing, Exhausted above ``limit``."""
        span = self.span(name)
        if span.size > limit:
            raise Exhausted(f"archive {self.name}: {shown(name, 120)} is larger than {limit} bytes")
        return read_span(self.path, span)

    def _find(self, name: str) -> Span | None:
        key = _key(name.encode("utf-8", "surrogateescape"))
        for _ in range(_HOPS):
            if key is None or key in self._files or key not in self._links:
                break
            key = _key(self._links[key])
        return None if key is None else self._files.get(key)


class _Table(EntrySink):
    """Sink of the tar reader: notes regular files and links, and nothing of their content."""

    def __init__(self, name: Path) -> None:
        self.name = name
        self.files: dict[bytes, Span] = {}
        self.links: dict[bytes, bytes] = {}
        self.pending = 0

    def begin(self, entry: TarEntry) -> None:
        self.pending = entry.stored if entry.kind == stat.S_IFREG else 0
        key = _key(entry.path)
        if key is None:
            return
        if len(self.files) + len(self.links) >= MEMBER_LIMIT:
            raise Exhausted(f"archive {self.name} has more than {MEMBER_LIMIT} members")
        if entry.kind == stat.S_IFREG and entry.extents is None:
            self._add(key, Span(entry.offset, entry.stored))
        elif entry.kind == stat.S_IFLNK:
            self.links[key] = key.rpartition(b"/")[0] + b"/" + entry.link
        elif entry.kind == HARDLINK:
            self.links[key] = entry.link

    def _add(self, key: bytes, span: Span) -> None:
        if key in self.files:
            raise Corrupt(f"archive {self.name} has two files {shown(os.fsdecode(key), 120)!r}")
        self.files[key] = span

    def data(self, view: memoryview) -> None:
        pass

    def end(self) -> None:
        pass


def _scan(fd: int, table: _Table) -> None:
    """Run the headers through the reader; zeroes stand for the members' data, which is passed over unread."""
    reader = TarReader(table, whole=False)
    size = os.fstat(fd).st_size
    at = 0
    while at < size:
        block = os.pread(fd, BLOCK, at)
        if not block:
            break
        reader.feed(block)
        at += len(block)
        left, table.pending = table.pending + -table.pending % BLOCK, 0
        if at + left > size:
            raise Corrupt(f"archive {table.name} is truncated")
        at += left
        while left:
            step = min(left, CHUNK)
            reader.feed(_ZEROES[:step] if step < CHUNK else _ZEROES)
            left -= step
    reader.finish()


def _key(path: bytes) -> bytes | None:
    """Return a member's name without ``.`` parts; None when it leaves the archive."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if not parts:
                return None
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts) or None


def digest_of(path: Path, algorithm: str) -> Digest:
    """The digest of a whole regular file; blocking.  Raises what `open_regular` does."""
    running = new_hash(algorithm)
    fd = open_regular(path)
    try:
        while piece := os.read(fd, CHUNK):
            running.update(piece)
    finally:
        os.close(fd)
    return Digest(algorithm, running.hexdigest())


def open_regular(path: Path) -> int:
    """Open a regular file that a user named; raises NotFound, InvalidConfig.  Never waits (FIFOs)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no file {path}") from None
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidConfig(f"{path} is not a regular file")
    return fd


def read_span(path: Path, span: Span) -> bytes:
    """Return the bytes of a small span; blocking.  Corrupt when the file ends before."""
    fd = open_regular(path)
    try:
        data = os.pread(fd, span.size, span.offset)
    finally:
        os.close(fd)
    if len(data) != span.size:
        raise Corrupt(f"{path} is truncated")
    return data


async def chunks(path: Path, span: Span, offset: int = 0) -> AsyncIterator[bytes]:
    """Yield a span's bytes from ``offset`` on, for `transfer.fetch`."""
    fd = await in_thread(open_regular, path)
    try:
        at, end = span.offset + offset, span.offset + span.size
        while at < end:
            data = await in_thread(os.pread, fd, min(CHUNK, end - at), at)
            if not data:
                return
            at += len(data)
            yield data
    finally:
        os.close(fd)
