"""A root as a stack of directories, read from outside while a container may be changing it.

Overlayfs' own rules (kernel: overlayfs.rst), applied by reading: no mount is made, nobody's mount is entered.
What lies in the directories is hostile and may change between any two calls, so every name is opened beneath
its directory's root without following anything, held, and judged by what the descriptor says (attack A-10).

    with Layered.open([upper, *lowers]) as root:
        for entry in root.walk():
            with root.held(entry.places[0]) as fd: ...
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from mesocosm.errors import Exhausted, Unsupported
from mesocosm.images.foreign import shown
from mesocosm.images.layers.entries import Xattrs
from mesocosm.images.layers.looks import OPAQUE
from mesocosm.images.limits import DEFAULT_LIMITS, Limits
from mesocosm.linux import beneath
from mesocosm.model.idmap import IDMap, IDRange

_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOREIGN: Final = {"trusted.overlay.redirect": "redirect_dir", "trusted.overlay.metacopy": "metacopy"}
CAPABILITY: Final = b"security.capability"
_CAPABILITY_3: Final = struct.Struct("<I16sI")  # linux/capability.h: version and flags, masks, the root user
_VERSION_2, _FLAGS = 0x02000000, 0x00FFFFFF
_HOPS: Final = 40  # symbolic links in one path, as the kernel's own limit (path_resolution(7))
GONE: Final = (FileNotFoundError, NotADirectoryError)
"""What the kernel answers for a name that has gone since it was listed, or has become something else."""


class Place(NamedTuple):
    """Where something is: in which directory of the stack, counted from the top, and at which path there."""

    layer: int
    path: bytes

    def child(self, name: bytes) -> Place:
        """The place of a name in this directory."""
        return Place(self.layer, _below(self.path, name))


class Entry(NamedTuple):
    """One name of a root: ``path`` below it, what it was when it was listed, and its places.

    A directory has one place in each layer that has a part of it, top first; all else has one.
    """

    path: bytes
    status: os.stat_result
    places: tuple[Place, ...]


class Layered:
    """The root; ``top`` first.  Blocking; what vanishes meanwhile is not there."""

    def __init__(
        self, roots: Sequence[int], owners: IDMap | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._roots = roots
        self._inside = None if owners is None else _turned(owners)
        self._limits = limits

    @classmethod
    @contextlib.contextmanager
    def open(cls, directories: Sequence[Path], owners: IDMap | None = None) -> Iterator[Layered]:
        """Open a stack of directories, top first.  OSError when one is not there.

        ``owners`` is the mapping that the container's files have: what it writes belongs to the host's IDs.
        """
        with contextlib.ExitStack() as stack:
            roots = []
            for directory in directories:
                roots.append(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                stack.callback(os.close, roots[-1])
            yield cls(roots, owners)

    @property
    def top(self) -> tuple[Place, ...]:
        """The root directory itself, in every layer."""
        return tuple(Place(layer, b"") for layer in range(len(self._roots)))

    def owner(self, place: Place, status: os.stat_result) -> tuple[int, int]:
        """User and group of what is at a place, as the image has them: those that the mapping made of others
        are turned back, all else stays.
        """
        uid, gid = status.st_uid, status.st_gid
        if self._inside is None or place.layer:
            return uid, gid
        inside = self._inside.uid(uid), self._inside.gid(gid)
        return uid if inside[0] is None else inside[0], gid if inside[1] is None else inside[1]

    def attributes(self, place: Place, fd: int, path: bytes) -> Xattrs:
        """The extended attributes of what is held there that a layer may have, as the image has them."""
        found = admitted(fd, path, self._limits)
        if self._inside is None or place.layer:
            return found
        return tuple(
            (name, _for_image(value, self._inside) if name == CAPABILITY else value) for name, value in found
        )

    @contextlib.contextmanager
    def held(self, place: Place) -> Iterator[int]:
        """A descriptor of what is at a place now, opened for nothing (O_PATH), links themselves included.

        Raises OSError: FileNotFoundError when it has gone.
        """
        fd = self._open(place, _HOLD)
        try:
            yield fd
        finally:
            os.close(fd)

    def walk(self) -> Iterator[Entry]:
        """Everything below the root, parents first, names in order.  Raises Exhausted, Unsupported."""
        pending = sorted(self.children(self.top, b""), reverse=True)
        count = 0
        while pending:
            entry = pending.pop()
            count += 1
            self.check(entry.path, count)
            yield entry
            if stat.S_ISDIR(entry.status.st_mode):
                pending += sorted(self.children(entry.places, entry.path), reverse=True)

    def check(self, path: bytes, count: int) -> None:
        """Raise Exhausted when a layer could not hold the path, or that many."""
        if len(path) > self._limits.path or path.count(b"/") >= self._limits.depth:
            raise Exhausted(f"{spelt(path[:80])}... is too long or too deep: {len(path)} bytes")
        if count > self._limits.entries:
            raise Exhausted(f"there are more than {self._limits.entries} files")

    def children(self, places: Sequence[Place], path: bytes) -> list[Entry]:
        """What a directory shows: its parts in all ``places``, one upon the other."""
        found: dict[bytes, Entry | None] = {}
        closed: set[bytes] = set()
        for place, fd in self._parts(places):
            for name in _names(fd):
                if name not in closed:
                    _lay(found, closed, name, _status(fd, name), place, path)
        return [entry for entry in found.values() if entry is not None]

    def listed(self, place: Place, path: bytes) -> dict[bytes, Entry]:
        """What one layer has in a directory, whiteouts too, by name."""
        found = {}
        for _, fd in self._parts((place,)):
            for name in _names(fd):
                status = _status(fd, name)
                if status is not None:
                    found[name] = Entry(_below(path, name), status, (place.child(name),))
        return found

    def find(self, places: Sequence[Place], name: bytes, path: bytes) -> Entry | None:
        """One name of a directory, as `children` would have it."""
        found: dict[bytes, Entry | None] = {}
        closed: set[bytes] = set()
        for place, fd in self._parts(places):
            if name in closed:
                break
            _lay(found, closed, name, _status(fd, name), place, path)
        return found.get(name)

    def resolve(self, target: str) -> bytes:
        """The path below the root that an absolute path in the container leads to; what is missing of it as
        it is written.
        """
        todo, done = [*reversed(os.fsencode(target).split(b"/"))], [(b"", self.top)]
        hops = 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                del done[max(1, len(done) - 1) :]
                continue
            path, places = done[-1]
            entry = self.find(places, part, path) if places else None
            if entry is not None and stat.S_ISLNK(entry.status.st_mode) and hops < _HOPS:
                hops += 1
                link = self.link(entry)
                if link.startswith(b"/"):
                    del done[1:]
                todo += reversed(link.split(b"/"))
                continue
            below = entry.places if entry and stat.S_ISDIR(entry.status.st_mode) else ()
            done.append((_below(path, part), below))
        return done[-1][0]

    def is_opaque(self, place: Place) -> bool:
        """Whether a directory hides what lower layers have in it."""
        with contextlib.suppress(*GONE), self.held(place) as fd:
            return attribute(fd, OPAQUE) == b"y"
        return False

    def _open(self, place: Place, flags: int) -> int:
        try:
            return beneath.open_beneath(self._roots[place.layer], place.path or b".", flags)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise FileNotFoundError(errno.ENOENT, "a link has taken its place", error.filename) from error

    def link(self, entry: Entry) -> bytes:
        """What a symbolic link says; nothing when it has gone."""
        with contextlib.suppress(OSError), self.held(entry.places[0]) as fd:
            return os.readlink(b"", dir_fd=fd)
        return b""

    def _parts(self, places: Sequence[Place]) -> Iterator[tuple[Place, int]]:
        """A directory in each layer that has it, opened for listing, down to the first that is opaque."""
        for place in places:
            try:
                fd = self._open(place, _LIST)
            except GONE:
                continue
            try:
                refuse_foreign(fd, place.path)
                opaque = attribute(fd, OPAQUE) == b"y"
                yield place, fd
            finally:
                os.close(fd)
            if opaque:
                return


def _turned(owners: IDMap) -> IDMap:
    """From the host's IDs to the container's."""

    def turned(ranges: tuple[IDRange, ...]) -> tuple[IDRange, ...]:
        return tuple(IDRange(one.host, one.container, one.length) for one in ranges)

    return IDMap(uids=turned(owners.uids), gids=turned(owners.gids))


def _for_image(capability: bytes, inside: IDMap) -> bytes:
    """File capabilities for a mapped root as those of any root: version 2 for 3 (capabilities(7))."""
    if len(capability) != _CAPABILITY_3.size:
        return capability
    word, masks, root = _CAPABILITY_3.unpack(capability)
    return struct.pack("<I", _VERSION_2 | word & _FLAGS) + masks if inside.uid(root) == 0 else capability


def _lay(
    found: dict[bytes, Entry | None],
    closed: set[bytes],
    name: bytes,
    status: os.stat_result | None,
    place: Place,
    path: bytes,
) -> None:
    """Lay what a layer has of a name below what the layers above have of it."""
    if status is None:
        return
    known = found.get(name)
    if is_whiteout(status) or (known is not None and not stat.S_ISDIR(status.st_mode)):
        closed.add(name)
        return
    if known is not None:
        found[name] = known._replace(places=(*known.places, place.child(name)))
        return
    found[name] = Entry(_below(path, name), status, (place.child(name),))
    if not stat.S_ISDIR(status.st_mode):
        closed.add(name)


def _below(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _names(fd: int) -> list[bytes]:
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]  # noqa: PTH208
    except FileNotFoundError:  # removed since it was opened
        return []


def _status(fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_whiteout(status: os.stat_result) -> bool:
    """A character device 0:0 (kernel: overlayfs.rst, "whiteouts")."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def attribute(fd: int, name: str) -> bytes | None:
    """An extended attribute of what a descriptor of any kind holds; None where there is none."""
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", name)
    except OSError:
        return None


def admitted(fd: int, path: bytes, limits: Limits = DEFAULT_LIMITS) -> Xattrs:
    """The extended attributes that a layer may hold: ``user.*`` and file capabilities, sorted.

    Those of overlayfs itself mean something on this host only, and so do labels and ACLs.
    """
    found = []
    for name in sorted(os.listxattr(f"/proc/self/fd/{fd}")):
        if name == "security.capability" or (
            name.startswith("user.") and not name.startswith("user.overlay.")
        ):
            value = attribute(fd, name)
            if value is not None:
                found.append((os.fsencode(name), value))
    size = sum(len(name) + len(value) for name, value in found)
    if len(found) > limits.xattrs or size > limits.xattr_bytes:
        raise Exhausted(
            f"{spelt(path)} has {len(found)} extended attributes of {size} bytes",
            hint=f"a layer holds {limits.xattrs}, of {limits.xattr_bytes} bytes together",
        )
    return tuple(found)


def refuse_foreign(fd: int, path: bytes) -> None:
    """Raise Unsupported for a name whose content overlayfs keeps elsewhere: our own overlays never do."""
    for name, option in _FOREIGN.items():
        if attribute(fd, name) is not None:
            raise Unsupported(
                f"{spelt(path)} was written by an overlay with {option}, which cannot be read from outside",
                hint="copy it inside the container, and remove the original",
            )


def spelt(path: bytes) -> str:
    """A path in a container, for people."""
    return "/" + shown(os.fsdecode(path), 200)
