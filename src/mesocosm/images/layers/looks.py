"""The look of directories that layers have but do not describe.

A layer may hold ``usr/bin/tool`` and say nothing of ``usr``.  Unpacked onto the layers below it, ``usr``
keeps their mode, owner and times; as a layer of an overlay it would hide them behind a look of its own.  Such
directories are marked (``trusted.overlay.mesocosm.implied``) when the layer is made.  For an image in which
one comes to lie on top, a small tree of directories is kept beside it, the uppermost layer of its stack: each
with the look that the layers below give it.

    looks/<chain ID's hex>/     directories only
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from mesocosm.errors import Exhausted
from mesocosm.linux import beneath

IMPLIED: Final = "trusted.overlay.mesocosm.implied"
OPAQUE: Final = "trusted.overlay.opaque"
LIMIT: Final = 5_000_000
"""Implied directories times layers: how many look-ups an image may ask for."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Xattrs = tuple[tuple[str, bytes], ...]


class Look(msgspec.Struct, frozen=True):
    """How a directory looks: permission bits, owner, time in nanoseconds, attributes."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: Xattrs


def find_looks(layers: Sequence[int], implied: Sequence[Sequence[str] | None]) -> dict[bytes, Look]:
    """Return the directories whose look is not their topmost layer's, with all on the way to them.

    ``layers`` are descriptors of layer roots, top first, ``implied`` where each has implied directories; None
    for one that has to be walked through to know.  Paths are relative to the root, which is not among them.
    Blocking.
    """
    found: dict[bytes, Look] = {}
    seen: set[bytes] = set()
    budget = LIMIT
    for number, layer in enumerate(layers[:-1]):
        noted = implied[number]
        for path in _implied(layer) if noted is None else map(os.fsencode, noted):
            budget -= len(layers)
            if budget < 0:
                raise Exhausted("image: its layers leave out too many of their directories")
            if path in seen or _decided(layers[:number], path):
                continue
            seen.add(path)
            look = _look_below(layer, layers[number + 1 :], path)
            if look is not None:
                found[path] = look
    for path in list(found):
        _add_parents(layers, path, found)
    return found


def write_looks(root: int, looks: dict[bytes, Look]) -> None:
    """Make the directories below the descriptor ``root``; durable when this returns."""
    for path in sorted(looks):
        os.close(beneath.make_directories(root, path, 0o700))
    for path in sorted(looks, reverse=True):
        fd = beneath.open_beneath(root, path, _DIRECTORY)
        try:
            _dress(fd, looks[path])
            os.fsync(fd)
        finally:
            os.close(fd)
    os.fsync(root)


def _dress(fd: int, look: Look) -> None:
    os.fchown(fd, look.uid, look.gid)
    os.fchmod(fd, look.mode)
    for name, value in look.xattrs:
        os.setxattr(fd, name, value)
    os.utime(fd, ns=(look.mtime, look.mtime))


def _implied(layer: int) -> Iterator[bytes]:
    """Yield the implied directories of a layer but its root, outer ones first."""
    pending = [b"."]
    while pending:
        path = pending.pop()
        fd = beneath.open_beneath(layer, path, _DIRECTORY)
        try:
            names = [os.fsencode(entry.name) for entry in _scan(fd) if entry.is_dir(follow_symlinks=False)]
            if path != b"." and _has(fd, IMPLIED):
                yield path
        finally:
            os.close(fd)
        pending += [name if path == b"." else path + b"/" + name for name in sorted(names, reverse=True)]


def _scan(fd: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(fd) as entries:
        yield from entries


def _decided(above: Sequence[int], path: bytes) -> bool:
    """Whether a higher layer says how ``path`` looks, or hides it."""
    for layer in above:
        place = _find(layer, path)
        if place.hides or (place.look is not None and not place.implied):
            return True
    return False


def _look_below(layer: int, lower: Sequence[int], path: bytes) -> Look | None:
    """The look that the highest layer below gives ``path``; None when none has, or may show it."""
    if _find(layer, path).hides:
        return None
    for other in lower:
        place = _find(other, path)
        if place.look is not None and not place.implied:
            return place.look
        if place.hides:
            return None
    return None


class _Place(msgspec.Struct, frozen=True):
    """What a layer has at a path.  ``look`` of a directory, None for all else; ``hides`` what is below it."""

    look: Look | None
    implied: bool
    hides: bool


def _find(layer: int, path: bytes) -> _Place:
    """Go down a layer name by name: a file or a whiteout on the way, or an opaque directory, hides the lower
    layers.
    """
    fd = os.dup(layer)
    hides = False
    try:
        for name in path.split(b"/"):
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return _Place(None, implied=False, hides=hides)
            if not stat.S_ISDIR(status.st_mode):
                return _Place(None, implied=False, hides=True)
            inner = os.open(name, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
            hides = hides or _has(fd, OPAQUE)
        return _Place(_look(fd), implied=_has(fd, IMPLIED), hides=hides)
    finally:
        os.close(fd)


def _add_parents(layers: Sequence[int], path: bytes, found: dict[bytes, Look]) -> None:
    """A directory on the way to a look needs one too: it lies on top as well."""
    parent = path.rpartition(b"/")[0]
    while parent and parent not in found:
        for layer in layers:
            place = _find(layer, parent)
            if place.look is not None:
                found[parent] = place.look
                break
        parent = parent.rpartition(b"/")[0]


def _look(fd: int) -> Look:
    status = os.fstat(fd)
    names = [name for name in os.listxattr(fd) if not name.startswith("trusted.overlay.")]
    xattrs = tuple((name, os.getxattr(fd, name)) for name in names)
    return Look(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)


def _has(fd: int, name: str) -> bool:
    try:
        return os.getxattr(fd, name) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


def hides_all(layer: int) -> bool:
    """Whether a layer, by the descriptor of its root, hides all that lies below it."""
    fd = os.open(".", _DIRECTORY, dir_fd=layer)
    try:
        return _has(fd, OPAQUE)
    finally:
        os.close(fd)


@contextlib.contextmanager
def closing(descriptors: list[int]) -> Iterator[list[int]]:
    """Close what was appended to the list."""
    try:
        yield descriptors
    finally:
        while descriptors:
            os.close(descriptors.pop())
