"""Writing what lies in a root as tar members, by descriptors and in pieces, whatever changes meanwhile."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from typing import Final

from mesocosm.errors import Denied, Exhausted, Unsupported
from mesocosm.images.layered import GONE, Entry, Layered, refuse_foreign, spelt
from mesocosm.images.layers.entries import OPAQUE_NAME, WHITEOUT_PREFIX
from mesocosm.images.limits import DEFAULT_LIMITS, DevicePolicy
from mesocosm.images.stopping import Stopped
from mesocosm.images.tar.header import BLOCK, HARDLINK, Extents, TarEntry
from mesocosm.images.tar.sparse import MAP_ENTRY
from mesocosm.images.tar.writer import END, member
from mesocosm.linux.holes import data_runs

_PIECE: Final = 1 << 20
_ANY: Final = 0  # the type byte, which its writer decides by the kind
_GRAIN: Final = 4096  # bytes of the blocks that holes are made of


class RootTar:
    """One archive; ``put`` takes its bytes.  Blocking.

    With ``whiteouts`` it is a layer, in which some names have a meaning.  ``left_out`` says in words what
    could not be written as it is.  ``stopped`` ends the writing with `Stopped`.
    """

    def __init__(
        self,
        root: Layered,
        put: Callable[[bytes], None],
        *,
        devices: DevicePolicy = "keep",
        whiteouts: bool = False,
        stopped: threading.Event | None = None,
    ) -> None:
        self._root = root
        self._put = put
        self._devices = devices
        self._whiteouts = whiteouts
        self._stopped = stopped or threading.Event()
        self._links: dict[tuple[int, int, int], bytes] = {}
        self.members = 0
        self.left_out: list[str] = []

    def add(self, entry: Entry) -> None:
        """Write what is now at the entry's place; nothing when it has gone.

        Raises Denied for a device that policy refuses, Exhausted for attributes beyond a layer's limits,
        Unsupported for what no reader would take for what it is.
        """
        try:
            with self._root.held(entry.places[0]) as fd:
                status = os.fstat(fd)
                if self._is_wanted(entry, status):
                    self._add(entry, fd, status)
        except GONE:
            return

    def white_out(self, path: bytes) -> None:
        """Say that a name of lower layers is gone (OCI image spec, layer.md "Whiteouts")."""
        parent, slash, name = path.rpartition(b"/")
        self._mark(parent + slash + WHITEOUT_PREFIX + name)

    def make_opaque(self, path: bytes) -> None:
        """Say that nothing of lower layers is in a directory."""
        self._mark(path + b"/" + OPAQUE_NAME)

    def finish(self) -> None:
        """End the archive."""
        self._put(END)

    def _mark(self, path: bytes) -> None:
        self._write(TarEntry(path, _ANY, 0, 0, 0, 0, 0, b"", stat.S_IFREG))

    def _write(self, entry: TarEntry) -> None:
        self._put(member(entry))
        self.members += 1

    def _is_wanted(self, entry: Entry, status: os.stat_result) -> bool:
        """Whether it is of a kind that archives hold, and the same kind as when it was listed."""
        mode, path = status.st_mode, entry.path
        if stat.S_ISDIR(mode) != stat.S_ISDIR(entry.status.st_mode):
            return False
        if self._whiteouts and path.rpartition(b"/")[2].startswith(WHITEOUT_PREFIX):
            raise Unsupported(
                f"{spelt(path)} cannot be in a layer: names that begin with .wh. take files away there",
                hint="rename it, or use mesocosm export",
            )
        if stat.S_ISSOCK(mode):
            self.left_out.append(f"{spelt(path)} is a socket and left out")
            return False
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            return self._admit_device(path)
        return True

    def _admit_device(self, path: bytes) -> bool:
        if self._devices == "refuse":
            raise Denied(f"{spelt(path)} is a device node", hint="devices in layers are refused by policy")
        if self._devices == "drop":
            self.left_out.append(f"{spelt(path)} is a device node and left out by policy")
        return self._devices == "keep"

    def _add(self, entry: Entry, fd: int, status: os.stat_result) -> None:
        path, mode = entry.path, status.st_mode
        name = (path + b"/" if path else b"./") if stat.S_ISDIR(mode) else path
        first, owner = self._first_name(entry, status), self._root.owner(entry.places[0], status)
        if first is not None:
            self._write(_entry(name, HARDLINK, status, owner, link=first))
        elif stat.S_ISREG(mode):
            self._add_file(entry, fd, status, owner)
        elif stat.S_ISLNK(mode):
            self._write(_entry(name, stat.S_IFLNK, status, owner, link=os.readlink(b"", dir_fd=fd)))
        else:
            xattrs = self._root.attributes(entry.places[0], fd, path) if stat.S_ISDIR(mode) else ()
            self._write(_entry(name, stat.S_IFMT(mode), status, owner, xattrs=xattrs))

    def _first_name(self, entry: Entry, status: os.stat_result) -> bytes | None:
        """The path that the same file was written under already."""
        if status.st_nlink < 2 or stat.S_ISDIR(status.st_mode):
            return None
        key = (entry.places[0].layer, status.st_dev, status.st_ino)
        known = self._links.get(key)
        if known is None:
            self._links[key] = entry.path
        return known

    def _add_file(self, entry: Entry, fd: int, status: os.stat_result, owner: tuple[int, int]) -> None:
        """A regular file, held: what is opened for reading is that one and no device put in its place."""
        refuse_foreign(fd, entry.path)
        xattrs, size = self._root.attributes(entry.places[0], fd, entry.path), status.st_size
        if size > DEFAULT_LIMITS.file:
            raise Exhausted(
                f"{spelt(entry.path)} has {size} bytes, more than the {DEFAULT_LIMITS.file} allowed"
            )
        file = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            extents = _extents(file, size, status.st_blocks)
            data = ((0, size),) if extents is None else extents
            stored = sum(length for _, length in data)
            self._write(
                _entry(
                    entry.path,
                    stat.S_IFREG,
                    status,
                    owner,
                    size=size,
                    stored=stored,
                    xattrs=xattrs,
                    extents=extents,
                )
            )
            missing = sum(self._copy(file, offset, length) for offset, length in data)
            self._put(bytes(-stored % BLOCK))
        finally:
            os.close(file)
        if missing:
            self.left_out.append(f"{spelt(entry.path)} became shorter while it was read: its end is zeroes")

    def _copy(self, file: int, offset: int, length: int) -> int:
        """Write a part of a file; answers how many bytes of it were not there any more."""
        left = length
        while left:
            if self._stopped.is_set():
                raise Stopped
            data = os.pread(file, min(left, _PIECE), offset)
            if not data:
                break
            self._put(data)
            offset, left = offset + len(data), left - len(data)
        for at in range(0, left, _PIECE):
            self._put(bytes(min(_PIECE, left - at)))
        return left


def _entry(
    path: bytes,
    kind: int,
    status: os.stat_result,
    owner: tuple[int, int],
    *,
    link: bytes = b"",
    size: int = 0,
    stored: int = 0,
    xattrs: tuple[tuple[bytes, bytes], ...] = (),
    extents: Extents | None = None,
) -> TarEntry:
    device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    return TarEntry(
        path,
        _ANY,
        stat.S_IMODE(status.st_mode),
        *owner,
        size,
        status.st_mtime_ns,
        link,
        kind,
        major=os.major(status.st_rdev) if device else 0,
        minor=os.minor(status.st_rdev) if device else 0,
        stored=stored,
        xattrs=xattrs,
        extents=extents,
    )


def _extents(file: int, size: int, blocks: int) -> Extents | None:
    """Where a file has data, for one with holes; None for all others, and where a map would be too large.

    ``blocks`` of 512 bytes are what it takes on disk (stat(2)).
    """
    if blocks * 512 >= size:
        return None
    found: list[tuple[int, int]] = []
    for start, end in data_runs(file, size):
        _append_written(found, file, start, end)
        if len(found) * MAP_ENTRY >= DEFAULT_LIMITS.sparse_map:
            return None
    whole = found == [(0, size)] or not size
    return None if whole else tuple(found)


def _append_written(found: list[tuple[int, int]], file: int, start: int, end: int) -> None:
    """Add those runs of blocks that are not zeroes.

    What counts as data depends on what has reached the disk by now; this does not.
    """
    at = start - start % _GRAIN
    while at < end:
        piece = os.pread(file, _PIECE, at)
        for offset in range(0, min(len(piece), end - at), _GRAIN):
            block = piece[offset : offset + _GRAIN]
            if block.count(0) == len(block):
                continue
            first, last = at + offset, min(at + offset + _GRAIN, at + len(piece))
            if found and sum(found[-1]) == first:
                found[-1] = (found[-1][0], last - found[-1][0])
            else:
                found.append((first, last - first))
        if len(piece) < _PIECE:
            return
        at += _PIECE
