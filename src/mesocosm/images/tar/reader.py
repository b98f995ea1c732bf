"""A streaming reader of tar archives: blocks in, members out, nothing kept and nothing trusted.

It is fed, not asked, so that one pass over a decompressed block hashes it and unpacks it; data goes to the
sink as views of the block it arrived in.  Reads v7, ustar, star, GNU (long names, sparse) and PAX.  Anything
that readers are known to disagree about is Corrupt instead of a guess (attacks I-11, I-16).
"""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable
from typing import Protocol

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.limits import DEFAULT_LIMITS, Limits
from mesocosm.images.tar import sparse as tar_sparse
from mesocosm.images.tar.extended import GLOBAL, LONG_LINK, LONG_NAME, RECORDS, Extended
from mesocosm.images.tar.header import (
    BLOCK,
    HARDLINK,
    TarEntry,
    bounded,
    decimal,
    extension_size,
    kind_of,
    number,
    parse_header,
    text,
    xattrs_of,
)

__all__ = ["BLOCK", "HARDLINK", "EntrySink", "TarEntry", "TarReader"]

_ZEROES = bytes(BLOCK)
_META = frozenset((GLOBAL, RECORDS, LONG_NAME, LONG_LINK))
_OLD_SPARSE = ord("S")
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


class EntrySink(Protocol):
    """Takes an archive's members.  A regular file comes ``whole``, or in pieces: ``begin``, ``data`` as often
    as needed, ``end``; for all others there is ``begin`` only.  A view of data stays valid for as long as the
    sink keeps it.
    """

    def begin(self, entry: TarEntry, /) -> None: ...
    def data(self, view: memoryview, /) -> None: ...
    def end(self) -> None: ...

    def whole(self, entry: TarEntry, view: memoryview, /) -> None:
        """Take a file with all its data, which is nearly every one: a sink may have a shorter way for it."""
        self.begin(entry)
        if view:
            self.data(view)
        self.end()


class TarReader:
    """Reads one archive and drives ``sink``.

    ``feed`` takes the stream in pieces of any size (large ones are cheaper), ``finish`` tells that it ended.
    Both raise Corrupt or Exhausted; the reader is of no use afterwards.  ``whole`` asks for the end mark of
    two zero blocks; without it a stream may also end behind a member's data, which Go's writers
    do (umoci leaves out even the padding), and which only a digest of the stream makes safe.
    """

    def __init__(self, sink: EntrySink, limits: Limits = DEFAULT_LIMITS, *, whole: bool = True) -> None:
        self.entries = 0
        self._sink = sink
        self._limits = limits
        self._whole = whole
        self._piece = memoryview(b"")
        self._start = 0
        """The piece at hand, and the place of its first byte in the stream."""
        self._held = b""
        """The beginning of a block whose end is in the next piece."""
        self._data = 0
        """Bytes of a member, or of an extended header, that are in the pieces to come."""
        self._padding = 0
        """Bytes to pass over behind those, or, where none are to come, before the next block."""
        self._meta: bytes | None = None
        self._meta_flag = 0
        self._extended = Extended(limits)
        self._ended = False
        self._take: Callable[[TarReader, bytes, int], int] = TarReader._take_header
        """Takes the next block, and where in the piece at hand it ends; returns where the one after it
        begins, which may be behind the piece.  Unbound: a reader that holds itself would be kept, with the
        piece and all that its sink has, until garbage is looked for.
        """

    # --- the stream -----------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Bytes of the stream read so far."""
        return self._start + len(self._piece)

    def feed(self, block: bytes) -> None:
        """Take the next piece of the stream."""
        self._start += len(self._piece)
        self._piece = memoryview(block)
        if self._ended:
            self._check_trailer(0)
            return
        end = len(block)
        at = self._go_on(block)
        while at + BLOCK <= end:
            at = self._take(self, block[at : at + BLOCK], at + BLOCK)
        if not self._data:
            self._padding = max(0, at - end)
        if at < end:
            self._held = block[at:]

    def _go_on(self, block: bytes) -> int:
        """Take what belongs to what earlier pieces began; return where the next block begins."""
        if self._data:
            return self._take_data()
        if not self._held:
            at, self._padding = self._padding, 0
            return at
        at = min(BLOCK - len(self._held), len(block))
        self._held += block[:at]
        if len(self._held) < BLOCK:
            return at
        header, self._held = self._held, b""
        return self._take(self, header, at)

    def _take_data(self) -> int:
        """Take a member's data, or an extended header's, that are in this piece but did not begin in it."""
        piece = self._piece
        stop = min(self._data, len(piece))
        self._data -= stop
        if self._meta is not None:
            self._meta += piece[:stop]
        else:
            self._sink.data(piece[:stop])
        if self._data:
            return stop
        if self._meta is not None:
            self._extended.take(self._meta_flag, self._meta)
            self._meta = None
        else:
            self._sink.end()
        return stop + self._padding

    def finish(self) -> None:
        """The stream has ended; Corrupt unless the archive has, too."""
        if 0 < self.position < BLOCK:
            raise Corrupt("tar: the file is shorter than any archive", hint="is it one?")
        within = self._take not in (TarReader._take_header, TarReader._take_second_zero)
        if self._data or self._held or within or (self._padding and self._whole):
            raise Corrupt("tar: the archive ends within a member", hint="the stream is truncated")
        if self._extended.pending:
            raise Corrupt("tar: the archive ends behind an extended header", hint="the stream is truncated")
        if self._whole and not self._ended:
            raise Corrupt("tar: the archive has no end mark", hint="the stream is truncated")

    def _take_second_zero(self, block: bytes, at: int) -> int:
        if block != _ZEROES:
            raise Corrupt("tar: a single block of zeroes between members", hint="the stream is damaged")
        self._ended = True
        self._check_trailer(at)
        return len(self._piece)

    def _check_trailer(self, at: int) -> None:
        """What follows the end mark is hashed as part of the layer, so it may be padding only (I-16)."""
        if bytes(self._piece[at:]).strip(b"\0"):
            raise Corrupt(
                "tar: data behind the end of the archive", hint="a second archive would not be unpacked"
            )

    # --- headers --------------------------------------------------------------------------------------------

    def _take_header(self, block: bytes, at: int) -> int:
        flag = block[156]
        if not flag and block == _ZEROES:
            self._take = TarReader._take_second_zero
            return at
        if flag in _META:
            return self._take_meta(flag, extension_size(block), at)
        entry = parse_header(block, self._start + at)
        self.entries += 1
        if self.entries > self._limits.entries:
            raise Exhausted(
                f"tar: more than {self._limits.entries} members", hint="raise the limit on entries"
            )
        if flag == _OLD_SPARSE:
            return self._take_old_sparse(entry, block, at)
        if self._extended.any:
            return self._emit_extended(entry, at)
        return self._emit(entry, at)

    def _take_meta(self, flag: int, size: int, at: int) -> int:
        bounded(size, 0, 2**63 - 1, "size")
        if size > self._limits.records:
            raise Exhausted(
                f"tar: an extended header has {size} bytes, more than {self._limits.records}",
                hint="no honest archive needs it",
            )
        padding = -size % BLOCK
        stop = at + size
        body = bytes(self._piece[at:stop])
        if len(body) == size:
            self._extended.take(flag, body)
            return stop + padding
        self._meta, self._meta_flag = body, flag
        self._data, self._padding = size - len(body), padding
        return len(self._piece)

    def _emit_extended(self, entry: TarEntry, at: int) -> int:
        records = self._extended.apply(entry)
        if records:
            entry.xattrs = xattrs_of(records, self._limits)
            if any(key[:11] == b"GNU.sparse." for key in records):
                return self._take_pax_sparse(entry, records, at)
        entry.kind = kind_of(entry.flag, entry.path)
        entry.stored = entry.size
        return self._emit(entry, at)

    def _emit(self, entry: TarEntry, at: int) -> int:
        """Check what the header says, and hand the member over."""
        if not 0 <= entry.size <= self._limits.file:
            self._refuse_size(entry)
        if entry.kind != stat.S_IFREG:
            self._emit_other(entry)
            return at
        stored = entry.stored
        padding = -stored % BLOCK
        stop = at + stored
        end = len(self._piece)
        if stop <= end:
            self._sink.whole(entry, self._piece[at:stop])
            return stop + padding
        self._sink.begin(entry)
        if at < end:
            self._sink.data(self._piece[at:])
        self._data, self._padding = stop - end, padding
        return end

    def _emit_other(self, entry: TarEntry) -> None:
        if entry.size:
            raise Corrupt(f"tar: {entry.path[:80]!r} has data but is no regular file")
        if entry.kind in _DEVICES:
            bounded(entry.major, 0, (1 << 12) - 1, "major device number")
            bounded(entry.minor, 0, (1 << 20) - 1, "minor device number")
        self._sink.begin(entry)

    def _refuse_size(self, entry: TarEntry) -> None:
        if entry.size < 0:
            raise Corrupt(f"tar: {entry.path[:80]!r} has a negative size")
        raise Exhausted(f"tar: {entry.path[:80]!r} has {entry.size} bytes, more than {self._limits.file}")

    # --- sparse files ---------------------------------------------------------------------------------------

    def _take_old_sparse(self, entry: TarEntry, block: bytes, at: int) -> int:
        if self._extended.any:
            self._extended.apply(entry)
        extents = tar_sparse.old_header_extents(block, 386, 4)
        real = number(block[483:495], "size")
        if block[482]:
            self._take = functools.partial(TarReader._take_old_map, entry=entry, extents=extents, real=real)
            return at
        return self._emit_sparse(entry, extents, real, entry.size, at)

    def _take_old_map(
        self, block: bytes, at: int, *, entry: TarEntry, extents: list[tuple[int, int]], real: int
    ) -> int:
        extents += tar_sparse.old_header_extents(block, 0, 21)
        if len(extents) * tar_sparse.MAP_ENTRY > self._limits.sparse_map:
            raise Exhausted(f"tar: a sparse map is larger than {self._limits.sparse_map} bytes")
        if block[504]:
            return at
        self._take = TarReader._take_header
        return self._emit_sparse(entry, extents, real, entry.size, at)

    def _take_pax_sparse(self, entry: TarEntry, records: dict[bytes, bytes], at: int) -> int:
        if records.get(b"GNU.sparse.name"):
            entry.path = text(records[b"GNU.sparse.name"], "sparse name")
        size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size") or b""
        real = decimal(size, "sparse size")
        if records.get(b"GNU.sparse.major") == b"1" and records.get(b"GNU.sparse.minor") == b"0":
            self._take = functools.partial(
                TarReader._take_map, entry=entry, reader=tar_sparse.MapReader(self._limits), real=real
            )
            return at
        extents = tar_sparse.record_extents(self._extended.records)
        if extents is None:
            raise Corrupt(f"tar: {entry.path[:80]!r} is sparse in an unknown way")
        return self._emit_sparse(entry, extents, real, entry.size, at)

    def _take_map(
        self, block: bytes, at: int, *, entry: TarEntry, reader: tar_sparse.MapReader, real: int
    ) -> int:
        if not reader.feed(block):
            return at
        self._take = TarReader._take_header
        return self._emit_sparse(entry, reader.extents or [], real, entry.size - reader.taken, at)

    def _emit_sparse(
        self, entry: TarEntry, extents: list[tuple[int, int]], real: int, stored: int, at: int
    ) -> int:
        entry.size = real
        entry.extents = tar_sparse.checked(extents, real, stored, self._limits)
        entry.kind = kind_of(entry.flag, entry.path)
        entry.offset = self._start + at
        entry.stored = stored
        return self._emit(entry, at)
