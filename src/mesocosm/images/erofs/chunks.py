"""Sparse files in EROFS: chunks of equal size, each a run of blocks or a hole.

A tiny member may describe a huge file (attack I-10), so the chunk size is chosen to keep both the map and
the zeroes around small extents small.
"""

from __future__ import annotations

from mesocosm.images.erofs.file import LayerFile
from mesocosm.images.erofs.format import MAX_CHUNK_BITS
from mesocosm.images.tar.header import Extents

HOLE = -1
_MAP_ENTRY = 4


def choose_chunk_bits(size: int, extents: Extents, block_bits: int) -> int:
    """Return the bits of the chunk size that stores the file in the fewest bytes."""
    best, best_cost = block_bits, -1
    for bits in range(block_bits, block_bits + MAX_CHUNK_BITS + 1):
        cost = _MAP_ENTRY * ((size >> bits) + 1) + (_touched(extents, bits) << bits)
        if best_cost < 0 or cost < best_cost:
            best, best_cost = bits, cost
        if size >> bits == 0:
            break
    return best


def _touched(extents: Extents, bits: int) -> int:
    """Return how many chunks hold data."""
    count, last = 0, -1
    for offset, length in extents:
        first, end = offset >> bits, (offset + length - 1) >> bits
        count += end - max(first, last + 1) + 1
        last = end
    return count


class SparseWriter:
    """Spreads packed data over the chunks of a sparse file; holes cost an entry of the map only.

    After `finish`, ``chunks`` holds a block number or `HOLE` for each chunk of ``1 << chunk_bits`` bytes.
    """

    def __init__(self, file: LayerFile, size: int, extents: Extents, block_bits: int) -> None:
        self.chunk_bits = choose_chunk_bits(size, extents, block_bits)
        self.chunks = [HOLE] * ((size + (1 << self.chunk_bits) - 1) >> self.chunk_bits)
        self._file = file
        self._size = size
        self._block_bits = block_bits
        self._extents = iter(extents)
        self._at = 0
        self._left = 0
        self._reached = 0
        """Apparent offset up to which the current chunk is written."""

    def write(self, view: memoryview) -> None:
        """Take the next packed bytes."""
        while view:
            if not self._left:
                self._at, self._left = next(self._extents)
            room = (((self._at >> self.chunk_bits) + 1) << self.chunk_bits) - self._at
            step = min(len(view), self._left, room)
            self._advance(self._at)
            self._file.append(view[:step])
            self._reached += step
            self._at += step
            self._left -= step
            view = view[step:]

    def finish(self) -> None:
        """Fill the last chunk up, to the file's end at most, and to a whole block."""
        self._close_chunk()
        self._file.pad(1 << self._block_bits)

    def _advance(self, offset: int) -> None:
        """Bring the output to ``offset``: zeroes within a chunk, nothing between chunks."""
        index = offset >> self.chunk_bits
        if self.chunks[index] == HOLE:
            self._close_chunk()
            self._file.pad(1 << self._block_bits)
            self.chunks[index] = self._file.position >> self._block_bits
            self._reached = index << self.chunk_bits
        self._file.fill(offset - self._reached)
        self._reached = offset

    def _close_chunk(self) -> None:
        if self._reached == 0:
            return
        end = ((self._reached - 1) >> self.chunk_bits) + 1 << self.chunk_bits
        self._file.fill(min(end, self._size) - self._reached)
