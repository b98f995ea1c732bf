"""Sparse maps of tar: old GNU headers, and the PAX forms 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse
Files").

A map is hostile (attack I-10): its extents must ascend, stay within the file and add up to what is stored.
"""

from __future__ import annotations

import re

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.limits import Limits
from mesocosm.images.tar.header import BLOCK, Extents, Records, decimal, number

_LINE = re.compile(rb"([0-9]{1,19})\n", re.ASCII)
MAP_ENTRY = 24
"""Bytes of one extent in the old GNU form; other forms are charged alike."""


def checked(extents: list[tuple[int, int]], size: int, stored: int, limits: Limits) -> Extents:
    """Return the map without its empty extents; Corrupt unless it describes ``stored`` bytes of a ``size``
    file.
    """
    if len(extents) * MAP_ENTRY > limits.sparse_map:
        raise Exhausted(f"tar: a sparse map has {len(extents)} extents, more than its limit allows")
    position = total = 0
    for offset, length in extents:
        if offset < position or length < 0:
            raise Corrupt("tar: a sparse file's extents overlap or go backwards")
        position = offset + length
        total += length
    if position > size or total != stored:
        raise Corrupt("tar: a sparse file's map contradicts its size")
    return tuple(extent for extent in extents if extent[1])


def old_header_extents(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    """Return up to ``count`` extents of an old GNU header or of a block that continues it."""
    extents = []
    for position in range(start, start + MAP_ENTRY * count, MAP_ENTRY):
        if not block[position]:
            break
        offset = number(block[position : position + 12], "sparse offset")
        extents.append((offset, number(block[position + 12 : position + 24], "sparse length")))
    return extents


def record_extents(records: Records) -> list[tuple[int, int]] | None:
    """Return the map of form 0.0 (repeated records) or 0.1 (one list), None where there is neither."""
    offsets = [decimal(value, "sparse offset") for key, value in records if key == b"GNU.sparse.offset"]
    lengths = [decimal(value, "sparse length") for key, value in records if key == b"GNU.sparse.numbytes"]
    maps = [value for key, value in records if key == b"GNU.sparse.map"]
    if maps:
        numbers = [decimal(part, "sparse map") for part in maps[-1].split(b",")] if maps[-1] else []
        offsets, lengths = numbers[::2], numbers[1::2]
    elif not offsets and not any(key == b"GNU.sparse.numblocks" for key, _ in records):
        return None
    if len(offsets) != len(lengths):
        raise Corrupt("tar: a sparse map ends within a pair")
    return list(zip(offsets, lengths, strict=True))


class MapReader:
    """Reads the map that form 1.0 keeps in front of the data: decimal lines, padded to a whole block."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._text = bytearray()
        self._position = 0
        self._numbers: list[int] = []
        self.extents: list[tuple[int, int]] | None = None

    @property
    def taken(self) -> int:
        """Bytes of the archive that the map has used so far."""
        return len(self._text)

    def feed(self, block: bytes) -> bool:
        """Take the next whole block; True once the map is complete."""
        self._text += block
        if len(self._text) > self._limits.sparse_map + BLOCK:
            raise Exhausted(f"tar: a sparse map is larger than {self._limits.sparse_map} bytes")
        while (match := _LINE.match(self._text, self._position)) is not None:
            self._numbers.append(int(match[1]))
            self._position = match.end()
            if len(self._numbers) == 1 + 2 * self._numbers[0]:
                numbers = self._numbers
                self.extents = list(zip(numbers[1::2], numbers[2::2], strict=True))
                return True
        if len(self._text) - self._position > 20 or self._text[self._position :].strip(b"0123456789"):
            raise Corrupt("tar: malformed sparse map")
        return False
