"""Remembers which layers were there, for as long as the directory that holds them has not changed.

Layers come and go by a rename(2) into or out of one directory, which changes its times and its number of
links (inode(7)).  So a container on an image that others use asks once, not once for each layer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from typing import Final

from mesocosm.images.digest import Digest

SETTLED: Final = 20_000_000
"""Nanoseconds after which a change gets another time than the last one: kernels before 6.13 take times of
files from a clock that ticks every 10 ms at the slowest.
"""

MOST: Final = 256
"""Sets of layers that are remembered."""

_Stamp = tuple[int, int, int]


class Presence:
    """What is known of the layers in ``folder``; any thread may ask.

    Nothing is remembered while the directory's last change is younger than `SETTLED`, or in the future.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known: dict[tuple[Digest, ...], _Stamp] = {}

    def all(self, diff_ids: Collection[Digest], has: Callable[[Digest], bool]) -> bool:
        """Whether each of these layers is there, as ``has`` tells of one."""
        wanted = tuple(diff_ids)
        now, stamp = time.time_ns(), self._stamp()
        if self._known.get(wanted) == stamp:
            return True
        if not all(map(has, wanted)):
            return False
        if now - stamp[1] > SETTLED:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[wanted] = stamp
        return True

    def _stamp(self) -> _Stamp:
        found = os.stat(self._folder)  # noqa: PTH116 - half the time of Path.stat
        return found.st_ino, found.st_ctime_ns, found.st_nlink
