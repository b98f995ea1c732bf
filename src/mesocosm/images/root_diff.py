"""What a container has changed in its root: its uppermost layer beside those below.

Our own mount points are not among it: empty files and directories that are there for a mount to lie on, and
directories that differ because one was made in them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

from mesocosm.images.layered import GONE, Entry, Layered, Place, is_whiteout
from mesocosm.images.stopping import Stopped

_PLAIN_ROOT = (stat.S_IFDIR | 0o755, 0, 0)
"""Of an upper layer, whatever the image says of ``/`` (backends/overlay.py)."""


class Difference(NamedTuple):
    """One path that differs.  ``entry`` is what is there now, or was below when it has been removed.

    ``opaque``: a directory that shows nothing of the one below it.  ``hidden``: it lies in such a directory,
    so that what is below of it cannot be seen anyway.
    """

    kind: Literal["added", "changed", "removed"]
    entry: Entry
    opaque: bool = False
    hidden: bool = False


class Found(NamedTuple):
    """A name of the uppermost directory, with what is below it; the same twice where it is only below."""

    entry: Entry
    below: Entry | None
    hidden: bool


class RootDiff:
    """The differences of a root whose uppermost directory has the changes.  Blocking.

    ``mounts`` are paths below the root that something was mounted on.  ``stopped`` ends the walk with
    `Stopped`.
    """

    def __init__(
        self, root: Layered, mounts: Collection[bytes], stopped: threading.Event | None = None
    ) -> None:
        self.root = root
        self._stopped = stopped or threading.Event()
        self._mounts = frozenset(mounts)
        self._homes = frozenset(path.rpartition(b"/")[0] for path in mounts)
        self._ways = frozenset(_ways(mounts))

    def walk(self) -> Iterator[Difference]:
        """Every difference, parents first, names in order.  Raises Exhausted, Unsupported."""
        waiting: list[Difference] = []
        count = 0
        yield from self._of_root()
        pending = self._inside(self.root.top[0], self.root.top[1:], b"", hidden=False)
        while pending:
            self.go_on()
            found = pending.pop()
            path, count = found.entry.path, count + 1
            self.root.check(path, count)
            while waiting and not path.startswith(waiting[-1].entry.path + b"/"):
                waiting.pop()
            if self._is_mount_point(found):
                continue
            difference = self._difference(found)
            if difference is not None:
                waiting.append(difference)
                if not self._may_be_ours(found, difference):
                    yield from waiting
                    waiting.clear()
            if difference is not None and is_directory(found.entry) and difference.kind != "removed":
                below = found.below.places if found.below and is_directory(found.below) else ()
                hidden = found.hidden or difference.opaque
                pending += self._inside(found.entry.places[0], below, path, hidden=hidden)

    def go_on(self) -> None:
        """Raise Stopped when nobody wants the differences any more."""
        if self._stopped.is_set():
            raise Stopped

    def _of_root(self) -> Iterator[Difference]:
        with self.root.held(self.root.top[0]) as fd:
            entry = Entry(b"", os.fstat(fd), self.root.top)
        if self._rights(entry) != self._plain_root():
            yield Difference("changed", entry)

    def _plain_root(self) -> tuple[int, int, int]:
        """How ``/`` looks when nobody changed it."""
        return _PLAIN_ROOT

    def _inside(self, place: Place, below: tuple[Place, ...], path: bytes, *, hidden: bool) -> list[Found]:
        """The names of a directory of the uppermost layer; last first."""
        names = self.root.listed(place, path)
        found = [Found(entry, self.root.find(below, name, path), hidden) for name, entry in names.items()]
        if hidden:
            gone = [entry for entry in self.root.children(below, path) if name_of(entry) not in names]
            found += [Found(entry, entry, hidden) for entry in gone]
        return sorted(found, key=lambda one: one.entry.path, reverse=True)

    def _difference(self, found: Found) -> Difference | None:
        entry, below, hidden = found
        if entry is below or is_whiteout(entry.status):
            return None if below is None else Difference("removed", below, hidden=hidden)
        opaque = (
            below is not None
            and is_directory(below)
            and is_directory(entry)
            and self.root.is_opaque(entry.places[0])
        )
        return Difference("changed" if below else "added", entry, opaque, hidden)

    def _is_mount_point(self, found: Found) -> bool:
        entry = found.entry
        if entry.path not in self._mounts or (found.below is not None and not found.hidden):
            return False
        if is_directory(entry):
            return not self.root.listed(entry.places[0], entry.path)
        return stat.S_ISREG(entry.status.st_mode) and not entry.status.st_size

    def _may_be_ours(self, found: Found, difference: Difference) -> bool:
        """Whether a directory counts only with something in it: as it was, or made for a mount in it."""
        entry, below = found.entry, found.below
        if not is_directory(entry) or found.hidden or difference.opaque or difference.kind == "removed":
            return False
        if below is None:
            return entry.path in self._ways and self._rights(entry) == _PLAIN_ROOT
        same_time = entry.status.st_mtime_ns == below.status.st_mtime_ns or entry.path in self._homes
        return same_time and self._look(entry) == self._look(below)

    def _rights(self, entry: Entry) -> tuple[int, int, int]:
        return entry.status.st_mode, *self.root.owner(entry.places[0], entry.status)

    def _look(self, entry: Entry) -> tuple[object, ...]:
        xattrs = None
        with contextlib.suppress(*GONE), self.root.held(entry.places[0]) as fd:
            xattrs = self.root.attributes(entry.places[0], fd, entry.path)
        return *self._rights(entry), xattrs


def is_directory(entry: Entry) -> bool:
    """Whether it was a directory when it was listed."""
    return stat.S_ISDIR(entry.status.st_mode)


def name_of(entry: Entry) -> bytes:
    """The last part of its path."""
    return entry.path.rpartition(b"/")[2]


def _ways(paths: Collection[bytes]) -> Iterator[bytes]:
    """The directories on the way to each path."""
    for path in paths:
        while path := path.rpartition(b"/")[0]:
            yield path
