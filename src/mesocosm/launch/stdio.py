"""Output of a payload on its way from pipes to files.

Bytes go from pipe to file inside the kernel (splice(2)); for each piece a record is appended to the index:

    u64 nanoseconds since the epoch | u32 stream (1 stdout, 2 stderr) | u64 bytes      little-endian, 20 bytes

so that a reader knows when each part was written and how the two streams lie side by side.
"""

from __future__ import annotations

import os
import struct
import time

RECORD = struct.Struct("<QIQ")
PIECE = 1 << 20

_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Stdio:
    """The streams of one payload, each a pipe, its number and the file it goes to."""

    __slots__ = ("_index", "lost", "streams")

    def __init__(self, index: int, streams: dict[int, tuple[int, int]]) -> None:
        self._index = index
        self.streams = streams
        """Read end of a pipe to ``(number, file)``; a stream that has ended is gone from here."""
        self.lost = 0
        """Bytes that could not be written, because the disk was full or failing."""

    def pump(self, source: int) -> bool:
        """Move what is there.  False when the stream has ended; both its descriptors are closed then."""
        if self._move(source) != 0:
            return True
        self._close(source)
        return False

    def drain(self) -> None:
        """Move what lies in the pipes, without waiting for descendants that still hold them, and close."""
        for source in tuple(self.streams):
            while self._move(source) > 0:
                pass
            self._close(source)

    def _move(self, source: int) -> int:
        """Bytes moved; 0 at the end, -1 when there is nothing at the moment."""
        number, sink = self.streams[source]
        try:
            count = os.splice(source, sink, PIECE, flags=_SPLICE)
            if count:
                self._record(number, count)
            return count
        except BlockingIOError:
            return -1
        except OSError:
            return self._discard(source)

    def _discard(self, source: int) -> int:
        # A full disk must not block the payload for ever: the bytes are dropped and counted.
        try:
            dropped = len(os.read(source, 1 << 16))
        except BlockingIOError:
            return -1
        self.lost += dropped
        return dropped

    def _record(self, number: int, count: int) -> None:
        try:
            os.write(self._index, RECORD.pack(time.time_ns(), number, count))
        except OSError:
            self.lost += RECORD.size

    def _close(self, source: int) -> None:
        os.close(self.streams.pop(source)[1])
        os.close(source)
