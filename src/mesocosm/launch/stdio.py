"""Output of a payload on its way from pipes to files.

Bytes go from pipe to file inside the kernel (splice(2)); for each piece a record is appended to the index:

    u64 nanoseconds since the epoch | u32 stream (1 stdout, 2 stderr) | u64 bytes        little-endian, 20
    bytes

so that a reader knows when each part was written and how the two streams lie side by side.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time

RECORD = struct.Struct("<QIQ")
PIECE = 1 << 20

_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Stream:
    """One pipe and the file it is written to."""

    __slots__ = ("number", "sink", "source")

    def __init__(self, number: int, source: int, sink: int) -> None:
        self.number = number
        self.source = source
        self.sink = sink


class Stdio:
    """The streams of one payload.  A stream that ended is forgotten and its descriptors are closed."""

    __slots__ = ("_index", "_streams", "lost")

    def __init__(self, index: int) -> None:
        self._index = index
        self._streams: dict[int, Stream] = {}
        self.lost = 0
        """Bytes that could not be written, because the disk was full or failing."""

    def open(self, number: int, sink: int) -> tuple[int, int]:
        """A pipe for stream ``number``: its read end, to be polled, and its write end, for the payload."""
        source, end = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(source, fcntl.F_SETFL, os.O_NONBLOCK)
        self._streams[source] = Stream(number, source, sink)
        return source, end

    def owns(self, fd: int) -> bool:
        """Whether ``fd`` is the read end of a stream."""
        return fd in self._streams

    def pump(self, source: int) -> bool:
        """Move what is there.  False when the stream has ended; it is closed then."""
        stream = self._streams[source]
        if self._move(stream) != 0:
            return True
        self._close(stream)
        return False

    def drain(self) -> None:
        """Move what lies in the pipes, without waiting for descendants that still hold them, and close."""
        for stream in list(self._streams.values()):
            while self._move(stream) > 0:
                pass
            self._close(stream)

    def _move(self, stream: Stream) -> int:
        """Bytes moved; 0 at the end, -1 when there is nothing at the moment."""
        try:
            count = os.splice(stream.source, stream.sink, PIECE, flags=_SPLICE)
            if count:
                self._record(stream, count)
            return count
        except BlockingIOError:
            return -1
        except OSError:
            return self._discard(stream)

    def _discard(self, stream: Stream) -> int:
        # A full disk must not block the payload for ever: the bytes are dropped and counted.
        try:
            dropped = len(os.read(stream.source, 1 << 16))
        except BlockingIOError:
            return -1
        self.lost += dropped
        return dropped

    def _record(self, stream: Stream, count: int) -> None:
        try:
            os.write(self._index, RECORD.pack(time.time_ns(), stream.number, count))
        except OSError:
            self.lost += RECORD.size

    def _close(self, stream: Stream) -> None:
        del self._streams[stream.source]
        os.close(stream.source)
        os.close(stream.sink)
