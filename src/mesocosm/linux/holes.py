"""Where a file has data, and where holes: lseek(2), SEEK_DATA and SEEK_HOLE."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def next_data(fd: int, at: int, size: int) -> int:
    """The next byte from ``at`` on that is in no hole; ``size``, the file's, when there is none.  OSError."""
    if at >= size:
        return size
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a hole up to the end, or the end itself, which may come nearer
            return size
        raise


def data_runs(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The first byte of each run of data and the one behind its last, below ``size``.  OSError."""
    at = 0
    while (start := next_data(fd, at, size)) < size:
        try:
            at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        yield start, at
