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
    MAX_ID,
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
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


class EntrySink(Protocol):
    """Takes an archive's members.  For a regular file: ``begin``, ``data`` as often as needed, ``end``; for
    all others ``begin`` only.  A view given to ``data`` stays valid for as long as the sink keeps it.
    """

    def begin(self, entry: TarEntry, /) -> None: ...
    def data(self, view: memoryview, /) -> None: ...
    def end(self) -> None: ...


class TarReader:
    """Reads one archive and drives ``sink``.

    ``feed`` takes the stream in pieces of any size (large ones are cheaper), ``finish`` tells that it ended.
    Both raise Corrupt or Exhausted; the reader is of no use afterwards.  ``whole`` asks for the end mark of
    two zero blocks; without it a stream may also end behind a member's data, which Go's writers
    do (umoci leaves out even the padding), and which only a digest of the stream makes safe.
    """

    def __init__(self, sink: EntrySink, limits: Limits = DEFAULT_LIMITS, *, whole: bool = True) -> None:
        self.entries = 0
        self.position = 0
        """Bytes of the stream read so far."""
        self._sink = sink
        self._limits = limits
        self._whole = whole
        self._held = b""
        self._data = 0
        self._padding = 0
        self._zeroes = 0
        self._meta: bytes | None = None
        self._meta_flag = 0
        self._extended = Extended(limits)
        self._more: Callable[[bytes], None] | None = None
        """Takes the next block, which goes on with a sparse member's map."""

    # --- the stream -----------------------------------------------------------------------------------------

    def feed(self, block: bytes) -> None:
        """Take the next piece of the stream."""
        view = memoryview(block)
        end = len(block)
        start = self.position
        at = 0
        while at < end:
            if self._data:
                at = self._take_data(view, at)
            elif self._padding:
                step = min(self._padding, end - at)
                self._padding -= step
                at += step
            elif self._zeroes > 1:
                self._check_trailer(view[at:])
                at = end
            elif self._held or end - at < BLOCK:
                step = min(BLOCK - len(self._held), end - at)
                self._held += view[at : at + step]
                at += step
                if len(self._held) == BLOCK:
                    header, self._held = self._held, b""
                    self.position = start + at
                    self._take_block(header)
            else:
                header = block[at : at + BLOCK]
                at += BLOCK
                self.position = start + at
                self._take_block(header)
        self.position = start + end

    def finish(self) -> None:
        """The stream has ended; Corrupt unless the archive has, too."""
        padding = self._padding and self._whole
        if 0 < self.position < BLOCK:
            raise Corrupt("tar: the file is shorter than any archive", hint="is it one?")
        if self._data or padding or self._held or self._more:
            raise Corrupt("tar: the archive ends within a member", hint="the stream is truncated")
        if self._extended.pending:
            raise Corrupt("tar: the archive ends behind an extended header", hint="the stream is truncated")
        if self._whole and self._zeroes < 2:
            raise Corrupt("tar: the archive has no end mark", hint="the stream is truncated")

    def _take_data(self, view: memoryview, at: int) -> int:
        """Take a member's data, or an extended header's, from ``at`` on; return where they end."""
        stop = at + self._data
        whole = stop <= len(view)
        if not whole:
            stop = len(view)
        self._data -= stop - at
        if self._meta is None:
            self._sink.data(view[at:stop])
            if whole:
                self._sink.end()
        else:
            self._meta += view[at:stop]
            if whole:
                self._end_meta(self._meta)
        if whole and self._padding <= len(view) - stop:  # nearly always: no turn of its own
            stop += self._padding
            self._padding = 0
        return stop

    def _check_trailer(self, rest: memoryview) -> None:
        """What follows the end mark is hashed as part of the layer, so it may be padding only (I-16)."""
        if bytes(rest).strip(b"\0"):
            raise Corrupt(
                "tar: data behind the end of the archive", hint="a second archive would not be unpacked"
            )

    def _take_block(self, block: bytes) -> None:
        if self._more is not None:
            self._more(block)
        elif not block[0] and block == _ZEROES:
            self._zeroes += 1
        elif self._zeroes:
            raise Corrupt("tar: a single block of zeroes between members", hint="the stream is damaged")
        elif block[156] in _META:
            self._begin_meta(block[156], extension_size(block))
        else:
            self._take_member(block)

    # --- headers --------------------------------------------------------------------------------------------

    def _take_member(self, block: bytes) -> None:
        entry = parse_header(block)
        self.entries += 1
        if self.entries > self._limits.entries:
            raise Exhausted(
                f"tar: more than {self._limits.entries} members", hint="raise the limit on entries"
            )
        if entry.flag == 0x53:
            self._begin_old_sparse(entry, block)
        elif self._extended.any:
            self._emit_extended(entry)
        else:
            self._emit(entry, entry.size)

    def _begin_meta(self, flag: int, size: int) -> None:
        bounded(size, 0, 2**63 - 1, "size")
        if size > self._limits.records:
            raise Exhausted(
                f"tar: an extended header has {size} bytes, more than {self._limits.records}",
                hint="no honest archive needs it",
            )
        self._meta_flag = flag
        self._meta = b""
        self._data = size
        self._padding = -size % BLOCK
        if not size:
            self._end_meta(b"")

    def _end_meta(self, body: bytes) -> None:
        self._meta = None
        self._extended.take(self._meta_flag, body)

    def _emit_extended(self, entry: TarEntry) -> None:
        records = self._extended.apply(entry)
        if records:
            entry.xattrs = xattrs_of(records, self._limits)
            if any(key[:11] == b"GNU.sparse." for key in records):
                self._begin_pax_sparse(entry, records)
                return
        self._emit(entry, entry.size)

    def _emit(self, entry: TarEntry, stored: int) -> None:
        """Check what the header says, and hand the member over."""
        kind = entry.kind = kind_of(entry)
        if not 0 <= entry.size <= self._limits.file:
            self._refuse_size(entry)
        if kind != stat.S_IFREG and entry.size:
            raise Corrupt(f"tar: {entry.path[:80]!r} has data but is no regular file")
        if not (0 <= entry.uid <= MAX_ID and 0 <= entry.gid <= MAX_ID):
            raise Corrupt(f"tar: {entry.path[:80]!r} has an owner out of range: {entry.uid}:{entry.gid}")
        if kind in _DEVICES:
            bounded(entry.major, 0, (1 << 12) - 1, "major device number")
            bounded(entry.minor, 0, (1 << 20) - 1, "minor device number")
        entry.offset = self.position
        entry.stored = self._data = stored
        self._padding = -stored % BLOCK
        self._sink.begin(entry)
        if kind == stat.S_IFREG and not stored:
            self._sink.end()

    def _refuse_size(self, entry: TarEntry) -> None:
        if entry.size < 0:
            raise Corrupt(f"tar: {entry.path[:80]!r} has a negative size")
        raise Exhausted(f"tar: {entry.path[:80]!r} has {entry.size} bytes, more than {self._limits.file}")

    # --- sparse files ---------------------------------------------------------------------------------------

    def _begin_old_sparse(self, entry: TarEntry, block: bytes) -> None:
        if self._extended.any:
            self._extended.apply(entry)
        extents = tar_sparse.old_header_extents(block, 386, 4)
        real = number(block[483:495], "size")
        if block[482]:
            self._more = functools.partial(self._take_old_map, entry, extents, real)
        else:
            self._emit_sparse(entry, extents, real, entry.size)

    def _take_old_map(self, entry: TarEntry, extents: list[tuple[int, int]], real: int, block: bytes) -> None:
        extents += tar_sparse.old_header_extents(block, 0, 21)
        if len(extents) * tar_sparse.MAP_ENTRY > self._limits.sparse_map:
            raise Exhausted(f"tar: a sparse map is larger than {self._limits.sparse_map} bytes")
        if not block[504]:
            self._more = None
            self._emit_sparse(entry, extents, real, entry.size)

    def _begin_pax_sparse(self, entry: TarEntry, records: dict[bytes, bytes]) -> None:
        if records.get(b"GNU.sparse.name"):
            entry.path = text(records[b"GNU.sparse.name"], "sparse name")
        size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size") or b""
        real = decimal(size, "sparse size")
        if records.get(b"GNU.sparse.major") == b"1" and records.get(b"GNU.sparse.minor") == b"0":
            self._more = functools.partial(self._take_map, entry, tar_sparse.MapReader(self._limits), real)
            return
        extents = tar_sparse.record_extents(self._extended.records)
        if extents is None:
            raise Corrupt(f"tar: {entry.path[:80]!r} is sparse in an unknown way")
        self._emit_sparse(entry, extents, real, entry.size)

    def _take_map(self, entry: TarEntry, reader: tar_sparse.MapReader, real: int, block: bytes) -> None:
        if reader.feed(block):
            self._more = None
            self._emit_sparse(entry, reader.extents or [], real, entry.size - reader.taken)

    def _emit_sparse(self, entry: TarEntry, extents: list[tuple[int, int]], real: int, stored: int) -> None:
        entry.size = real
        entry.extents = tar_sparse.checked(extents, real, stored, self._limits)
        self._emit(entry, stored)
