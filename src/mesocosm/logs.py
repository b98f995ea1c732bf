"""What a payload wrote, read back in order.

The supervisor moves the payload's output into one plain file per stream, untouched, and appends to an index
one record per chunk: when, which stream, how many bytes.  So the streams can be read with any tool, and
``logs`` can still tell their order and times.

Index record, 20 bytes, little endian: u64 nanoseconds since the epoch, u32 stream (1 stdout, 2 stderr), u64
length.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Literal

import msgspec

from mesocosm.launch.launcher import OutputPaths
from mesocosm.linux import inotify

RECORD = struct.Struct("<QIQ")
PIECE = 1 << 20  # longest piece of a stream held in memory


class Chunk(msgspec.Struct, frozen=True):
    """Bytes written at once or shortly after each other.  ``time`` in seconds since the epoch."""

    stream: Literal["stdout", "stderr"]
    time: float
    data: bytes


def read(
    output: OutputPaths, *, ended: Callable[[], Awaitable[object]] | None = None, since: float | None = None
) -> AsyncIterator[Chunk]:
    """All chunks so far, and with ``ended`` all that come until what it answers is done.

    The files are opened at once, so that what is read does not depend on how long they go on existing.
    """
    return _chunks(_Reader(output), ended, since)


async def _chunks(
    reader: _Reader, ended: Callable[[], Awaitable[object]] | None, since: float | None
) -> AsyncIterator[Chunk]:
    try:
        if ended is None or not reader.opened:
            for chunk in reader.new(since):
                yield chunk
            return
        end = asyncio.ensure_future(_outcome(ended))
        try:
            async with inotify.watch(f"/proc/self/fd/{reader.index}") as changed:
                async for chunk in _follow(reader, since, end, changed):
                    yield chunk
        finally:
            end.cancel()
            await asyncio.gather(end, return_exceptions=True)
    finally:
        reader.close()


async def _outcome(ended: Callable[[], Awaitable[object]]) -> None:
    await ended()


async def _follow(
    reader: _Reader, since: float | None, end: asyncio.Future[None], changed: inotify.Waiter
) -> AsyncIterator[Chunk]:
    while True:
        # once the end is known nothing more is written, and one more look finds all of it
        last = end.done()
        for chunk in reader.new(since):
            yield chunk
        if last:
            return
        change = asyncio.ensure_future(changed())
        try:
            await asyncio.wait({end, change}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
            await asyncio.gather(change, return_exceptions=True)


class _Reader:
    def __init__(self, output: OutputPaths) -> None:
        self._streams: dict[int, int] = {}
        self.index = -1
        self._read = 0
        self._places = {1: 0, 2: 0}
        with contextlib.suppress(FileNotFoundError):  # nothing has been forked yet, or nothing ever was
            for stream, path in ((1, output.stdout), (2, output.stderr)):
                self._streams[stream] = _open(path)
            self.index = _open(output.index)

    @property
    def opened(self) -> bool:
        """Whether there is anything to read from."""
        return self.index >= 0

    def new(self, since: float | None) -> Iterator[Chunk]:
        """Chunks that have come since the last call."""
        while self.opened and (record := os.pread(self.index, RECORD.size, self._read)):
            if len(record) < RECORD.size:
                return  # its writer is between two pages
            self._read += RECORD.size
            nanoseconds, stream, length = RECORD.unpack(record)
            if stream not in self._places:
                continue
            start = self._places[stream]
            self._places[stream] += length
            if since is None or nanoseconds / 1e9 >= since:
                yield from self._pieces(stream, nanoseconds / 1e9, start, length)

    def _pieces(self, stream: int, time: float, start: int, length: int) -> Iterator[Chunk]:
        name: Literal["stdout", "stderr"] = "stdout" if stream == 1 else "stderr"
        for place in range(start, start + length, PIECE):
            data = os.pread(self._streams[stream], min(PIECE, start + length - place), place)
            yield Chunk(name, time, data)

    def close(self) -> None:
        """Let the files go."""
        for descriptor in (*self._streams.values(), self.index):
            if descriptor >= 0:
                os.close(descriptor)


def _open(path: os.PathLike[str]) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
