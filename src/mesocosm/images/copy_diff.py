"""What a container has changed in a root that was copied for it: the copy beside the layers it was made of.

Nobody wrote down what was copied, and times can be set back, so what looks the same is read on both sides.
That costs as much as reading the image; a root of stacked layers costs what was changed (root_diff.py).
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from mesocosm.images.layered import GONE, Entry, Place
from mesocosm.images.root_diff import Difference, Found, RootDiff, is_directory, name_of
from mesocosm.linux.holes import next_data

_PIECE: Final = 1 << 20


class CopyDiff(RootDiff):
    """The differences of a root whose uppermost directory is all of it.  The layers below are only beside it:
    nothing of them is seen through it.
    """

    def _inside(self, place: Place, below: tuple[Place, ...], path: bytes, *, hidden: bool) -> list[Found]:
        beside = {name_of(entry): entry for entry in self.root.children(below, path)}
        names = self.root.listed(place, path)
        found = [Found(entry, beside.get(name), hidden) for name, entry in names.items()]
        found += [Found(entry, entry, hidden) for name, entry in beside.items() if name not in names]
        return sorted(found, key=lambda one: one.entry.path, reverse=True)

    def _difference(self, found: Found) -> Difference | None:
        entry, below, hidden = found
        if entry is below or below is None or is_directory(entry):
            difference = super()._difference(found)
            return None if difference is None else difference._replace(opaque=False)
        return None if self._same(entry, below) else Difference("changed", entry, hidden=hidden)

    def _plain_root(self) -> tuple[int, int, int]:
        for place in self.root.top[1:2]:
            with self.root.held(place) as fd:
                status = os.fstat(fd)
            return status.st_mode, status.st_uid, status.st_gid
        return super()._plain_root()

    def _same(self, one: Entry, two: Entry) -> bool:
        """Whether a name that is no directory is as the image has it."""
        left, right = one.status, two.status
        if left.st_mtime_ns != right.st_mtime_ns or self._look(one) != self._look(two):
            return False
        if stat.S_ISREG(left.st_mode):
            return left.st_size == right.st_size and self._same_content(one, two)
        if stat.S_ISLNK(left.st_mode):
            return self.root.link(one) == self.root.link(two)
        return left.st_rdev == right.st_rdev

    def _same_content(self, one: Entry, two: Entry) -> bool:
        with contextlib.suppress(*GONE), contextlib.ExitStack() as stack:
            files = []
            for entry in (one, two):
                fd = stack.enter_context(self.root.held(entry.places[0]))
                if not stat.S_ISREG(os.fstat(fd).st_mode):  # something else has taken its place
                    return False
                files.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
                stack.callback(os.close, files[-1])
            return self._same_bytes(files[0], files[1], one.status.st_size)
        return False

    def _same_bytes(self, one: int, two: int, size: int) -> bool:
        at = 0
        while (at := min(next_data(one, at, size), next_data(two, at, size))) < size:
            self.go_on()
            piece = os.pread(one, _PIECE, at)
            if not piece or piece != os.pread(two, len(piece), at):
                return False
            at += len(piece)
        return True
