"""The root file system in an App Container image, as an ordinary layer: made on the fly, always the same."""

from __future__ import annotations

import bisect
import hashlib
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from mesocosm.errors import Corrupt
from mesocosm.images.archive import open_regular
from mesocosm.images.decompress import Decompressor
from mesocosm.images.foreign import shown
from mesocosm.images.layers.entries import WHITEOUT_PREFIX, clean_path
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.tar.header import BLOCK, HARDLINK, TarEntry
from mesocosm.images.tar.reader import EntrySink, TarReader
from mesocosm.images.tar.writer import END, member

_PIECE: Final = 1 << 20
_ROOT: Final = b"rootfs"


def uncompressed(path: Path) -> Iterator[bytes]:
    """Yield an image's tar; blocking."""
    plain = Decompressor(None, DEFAULT_LIMITS)
    fd = open_regular(path)
    try:
        while piece := os.read(fd, _PIECE):
            yield from plain.feed(piece)
    finally:
        os.close(fd)
    yield from plain.finish()


def image_id_of(path: Path) -> str:
    """Return an image's ID: the SHA-512 of its uncompressed tar; blocking."""
    running = hashlib.sha512()
    for piece in uncompressed(path):
        running.update(piece)
    return f"sha512-{running.hexdigest()}"


def converted(path: Path, whitelists: Sequence[frozenset[bytes]]) -> Generator[bytes, None, None]:
    """Yield the tar of an ACI's ``rootfs``, of what every whitelist names; blocking."""
    sink = _RootSink(whitelists)
    reader = TarReader(sink)
    for piece in uncompressed(path):
        reader.feed(piece)
        yield sink.take()
    reader.finish()
    yield sink.take() + END


def owner_in(path: Path, whitelists: Sequence[frozenset[bytes]], wanted: bytes) -> tuple[int, int] | None:
    """Return the (uid, gid) of the file ``wanted``, a clean path, in what `converted` yields; blocking.

    None where there is none of that name.  Links are not followed.
    """
    sink = _OwnerSink(wanted)
    reader = TarReader(sink)
    for piece in converted(path, whitelists):
        reader.feed(piece)
    reader.finish()
    return sink.owner


class _OwnerSink(EntrySink):
    """Sink of the tar reader that remembers whose one member is, the last of that name."""

    def __init__(self, wanted: bytes) -> None:
        self.owner: tuple[int, int] | None = None
        self._wanted = wanted

    def begin(self, entry: TarEntry) -> None:
        if clean_path(entry.path, DEFAULT_LIMITS) == self._wanted:
            self.owner = (entry.uid, entry.gid)

    def data(self, view: memoryview) -> None:
        """Only names count."""

    def end(self) -> None:
        """As `data`."""


class _RootSink(EntrySink):
    """Sink of the tar reader that writes members below ``rootfs`` again, without that name."""

    def __init__(self, whitelists: Sequence[frozenset[bytes]]) -> None:
        self._whitelists = [(listed, sorted(listed)) for listed in whitelists]
        self._out: list[bytes] = []
        self._size: int | None = None

    def take(self) -> bytes:
        """Return what was written since."""
        made = b"".join(self._out)
        self._out.clear()
        return made

    def begin(self, entry: TarEntry) -> None:
        self._size = None
        path = _inside(entry.path)
        if path is None or not self._listed(path, entry.kind):
            return
        if WHITEOUT_PREFIX in path:
            raise Corrupt(f"aci: {shown(os.fsdecode(path), 80)} has a name that layers use for whiteouts")
        link = entry.link
        if entry.kind == HARDLINK:
            link = _inside(link) or b""
        self._size = entry.stored if entry.kind == stat.S_IFREG else 0
        self._out.append(member(msgspec.structs.replace(entry, path=path or b"./", link=link)))

    def data(self, view: memoryview) -> None:
        if self._size is not None:
            self._out.append(bytes(view))

    def end(self) -> None:
        if self._size is not None:
            self._out.append(bytes(-self._size % BLOCK))

    def _listed(self, path: bytes, kind: int) -> bool:
        """A whitelist names each path by itself; directories on the way to one are there too."""
        return all(
            path in listed or not path or (kind == stat.S_IFDIR and _is_way(path, ordered))
            for listed, ordered in self._whitelists
        )


def _inside(path: bytes) -> bytes | None:
    """Return a member's path below ``rootfs``; None for what lies beside it."""
    cleaned = clean_path(path, DEFAULT_LIMITS)
    if cleaned == _ROOT:
        return b""
    return cleaned[len(_ROOT) + 1 :] if cleaned.startswith(_ROOT + b"/") else None


def _is_way(path: bytes, listed: Sequence[bytes]) -> bool:
    """Whether one of the sorted paths lies below ``path``.

    Looked up, not written out: a whitelist of one deep path after the other has a thousand times its size in
    directories on the way.
    """
    inside = path + b"/"
    place = bisect.bisect_left(listed, inside)
    return place < len(listed) and listed[place].startswith(inside)
