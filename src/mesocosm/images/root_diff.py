"""What a container has changed in its root: its uppermost layer beside those below.

Our own mount points are not among it: empty files and directories that are there for a mount to lie on, and
directories that differ because one was made in them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

from mesocosm.images.layered import GONE, Entry, Layered, Place, is_whiteout

_PLAIN_ROOT = (stat.S_IFDIR | 0o755, 0, 0)
"""How ``/`` looks when nobody changed it, whatever the image says of it (backends/overlay.py)."""


class Difference(NamedTuple):
    """One path that differs.  ``entry`` is what is there now, or was below when it has been removed.

    ``opaque``: a directory that shows nothing of the one below it.  ``hidden``: it lies in such a directory,
    so that what is below of it cannot be seen anyway.
    """

    kind: Literal["added", "changed", "removed"]
    entry: Entry
    opaque: bool = False
    hidden: bool = False


class _Found(NamedTuple):
    """A name of the uppermost layer, with what is below it."""

    entry: Entry
    below: Entry | None
    hidden: bool


class RootDiff:
    """The differences of a root whose uppermost directory has the changes.  Blocking.

    ``mounts`` are paths below the root that something was mounted on.
    """

    def __init__(self, root: Layered, mounts: Collection[bytes]) -> None:
        self._root = root
        self._mounts = frozenset(mounts)
        self._homes = frozenset(path.rpartition(b"/")[0] for path in mounts)
        self._ways = frozenset(_ways(mounts))

    def walk(self) -> Iterator[Difference]:
        """Every difference, parents first, names in order.  Raises Exhausted, Unsupported."""
        waiting: list[Difference] = []
        count = 0
        yield from self._of_root()
        pending = self._inside(self._root.top[0], self._root.top[1:], b"", hidden=False)
        while pending:
            found = pending.pop()
            path, count = found.entry.path, count + 1
            self._root.check(path, count)
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
            if difference is not None and _is_directory(found.entry) and difference.kind != "removed":
                below = found.below.places if found.below and _is_directory(found.below) else ()
                hidden = found.hidden or difference.opaque
                pending += self._inside(found.entry.places[0], below, path, hidden=hidden)

    def _of_root(self) -> Iterator[Difference]:
        with self._root.held(self._root.top[0]) as fd:
            entry = Entry(b"", os.fstat(fd), self._root.top)
        if self._rights(entry) != _PLAIN_ROOT:
            yield Difference("changed", entry)

    def _inside(self, place: Place, below: tuple[Place, ...], path: bytes, *, hidden: bool) -> list[_Found]:
        """The names of a directory of the uppermost layer; last first."""
        names = self._root.listed(place, path)
        found = [_Found(entry, self._root.find(below, name, path), hidden) for name, entry in names.items()]
        if hidden:
            gone = [entry for entry in self._root.children(below, path) if _name(entry) not in names]
            found += [_Found(entry, entry, hidden) for entry in gone]
        return sorted(found, key=lambda one: one.entry.path, reverse=True)

    def _difference(self, found: _Found) -> Difference | None:
        entry, below, hidden = found
        if entry is below or is_whiteout(entry.status):
            return None if below is None else Difference("removed", below, hidden=hidden)
        opaque = (
            below is not None
            and _is_directory(below)
            and _is_directory(entry)
            and self._root.is_opaque(entry.places[0])
        )
        return Difference("changed" if below else "added", entry, opaque, hidden)

    def _is_mount_point(self, found: _Found) -> bool:
        entry = found.entry
        if entry.path not in self._mounts or (found.below is not None and not found.hidden):
            return False
        if _is_directory(entry):
            return not self._root.listed(entry.places[0], entry.path)
        return stat.S_ISREG(entry.status.st_mode) and not entry.status.st_size

    def _may_be_ours(self, found: _Found, difference: Difference) -> bool:
        """Whether a directory counts only with something in it: as it was, or made for a mount in it."""
        entry, below = found.entry, found.below
        if not _is_directory(entry) or found.hidden or difference.opaque or difference.kind == "removed":
            return False
        if below is None:
            return entry.path in self._ways and self._rights(entry) == _PLAIN_ROOT
        same_time = entry.status.st_mtime_ns == below.status.st_mtime_ns or entry.path in self._homes
        return same_time and self._look(entry) == self._look(below)

    def _rights(self, entry: Entry) -> tuple[int, int, int]:
        return entry.status.st_mode, *self._root.owner(entry.places[0], entry.status)

    def _look(self, entry: Entry) -> tuple[object, ...]:
        xattrs = None
        with contextlib.suppress(*GONE), self._root.held(entry.places[0]) as fd:
            xattrs = self._root.attributes(entry.places[0], fd, entry.path)
        return *self._rights(entry), xattrs


def _is_directory(entry: Entry) -> bool:
    return stat.S_ISDIR(entry.status.st_mode)


def _name(entry: Entry) -> bytes:
    return entry.path.rpartition(b"/")[2]


def _ways(paths: Collection[bytes]) -> Iterator[bytes]:
    """The directories on the way to each path."""
    for path in paths:
        while path := path.rpartition(b"/")[0]:
            yield path
