"""The directory tree that a layer is unpacked into: every step by descriptors, nothing followed by the
kernel.

A tree under construction may hold whatever the archive put there, links to the host included.  So
directories are opened one name at a time without following anything, and the links of the layer itself are
followed here, inside the root (attacks I-01 to I-03, P-07).
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from typing import Literal

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.certain import certain
from mesocosm.images.limits import Limits
from mesocosm.linux.beneath import open_beneath, remove_tree

LINK_HOPS = 40
OPEN_DIRECTORIES = 32
"""Directories held open at a time: members come mostly in the order of a walk."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Standing = Literal["described", "implied", "lower"]


class Made:
    """What this layer put at a name.  Directories have ``children``.

    ``standing`` of a directory: described by a member, implied by one below it, or found in the tree and
    kept as lower layers left it.  ``mtime`` is what a directory gets in the end, in nanoseconds; None leaves
    it.
    """

    __slots__ = ("children", "link", "mtime", "names", "opaque", "standing", "whiteouts")

    def __init__(self, *, directory: bool, link: bytes | None = None) -> None:
        self.children: dict[bytes, Made] | None = {} if directory else None
        self.link = link
        self.mtime: int | None = None
        self.names = 1
        self.opaque = False
        self.standing: Standing = "described"
        self.whiteouts: set[bytes] | None = None


class Directory:
    """A directory of the tree, open: ``path`` is where it really is, without links."""

    __slots__ = ("fd", "made", "path")

    def __init__(self, path: bytes, fd: int, made: Made) -> None:
        self.path = path
        self.fd = fd
        self.made = made

    @property
    def children(self) -> dict[bytes, Made]:
        """What this layer made in the directory."""
        return certain(self.made.children, "the directory")

    def below(self, name: bytes) -> bytes:
        """Return the path of a name in the directory."""
        return self.path + b"/" + name if self.path else name


class Tree:
    """The tree below ``root_fd``, which stays the caller's.  Paths are cleaned ones, b"" is the root."""

    def __init__(self, root_fd: int, limits: Limits) -> None:
        self.root = Made(directory=True)
        self.root.standing = "lower"
        self._root_fd = root_fd
        self._limits = limits
        self._open: OrderedDict[bytes, Directory] = OrderedDict()
        self._retired: Directory | None = None

    def close(self) -> None:
        """Close every directory held open."""
        self._retire(None)
        if self._retired is not None:
            os.close(self._retired.fd)
            self._retired = None

    def directory(self, path: bytes) -> Directory:
        """Return the directory at ``path`` after links of this layer, made when it is missing.

        It stays open until `OPEN_DIRECTORIES` others were asked for.
        """
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        directory = self._straight(path) or self._walk(path)
        self._open[path] = directory
        if len(self._open) > OPEN_DIRECTORIES:
            os.close(self._open.popitem(last=False)[1].fd)
        return directory

    def locate(self, path: bytes) -> tuple[Directory, Made] | None:
        """Return the directory of ``path`` and what this layer made at its last name, or None."""
        parent, _, name = path.rpartition(b"/")
        if not self._exists(parent):
            return None
        directory = self.directory(parent)
        made = directory.children.get(name)
        return (directory, made) if made is not None else None

    def open_directory(self, path: bytes) -> int:
        """Open a directory by the path it really has."""
        return open_beneath(self._root_fd, path or b".", _DIRECTORY)

    def remove(self, directory: Directory, name: bytes) -> None:
        """Remove whatever is at a name, in this layer and in the tree."""
        old = directory.children.pop(name, None)
        if old is not None:
            old.names -= 1
        if old is None or old.children is not None or old.link is not None:
            self._retire(directory)
        remove_tree(directory.fd, name)

    def _retire(self, used: Directory | None) -> None:
        """Forget all ways: one that led through the name just replaced may lead elsewhere now.

        The directory in ``used`` stays open until the next time.
        """
        if self._retired is not None and self._retired is not used:
            os.close(self._retired.fd)
        for directory in self._open.values():
            if directory is not used:
                os.close(directory.fd)
        self._open.clear()
        self._retired = used

    # --- ways -----------------------------------------------------------------------------------------------

    def _straight(self, path: bytes) -> Directory | None:
        """Take the way that needs no thought: real directories only, and known ones of this layer or none."""
        try:
            fd = self.open_directory(path)
        except OSError:
            return None
        made = self.root
        at = b""
        for name in path.split(b"/") if path else ():
            children = certain(made.children, "a directory on the way")
            at = at + b"/" + name if at else name
            child = children.get(name)
            if child is None:
                child = children[name] = self._adopted(at)
            made = child
        return Directory(path, fd, made)

    def _adopted(self, path: bytes) -> Made:
        """Note a directory of a lower layer that this one works in: its time has to survive that."""
        made = Made(directory=True)
        made.standing = "lower"
        fd = self.open_directory(path)
        try:
            made.mtime = os.fstat(fd).st_mtime_ns
        finally:
            os.close(fd)
        return made

    def _walk(self, path: bytes) -> Directory:
        here = Directory(b"", self.open_directory(b""), self.root)
        todo = path.split(b"/")[::-1]
        hops = 0
        try:
            while todo:
                part = todo.pop()
                if part in (b"", b"."):
                    continue
                if part == b"..":
                    here = self._reopened(here, here.path.rpartition(b"/")[0])
                    continue
                link = self._link(here, part, path)
                if link is None:
                    here = self._step(here, part)
                    continue
                hops += 1
                if hops > LINK_HOPS or len(todo) > self._limits.depth:
                    raise Corrupt(f"layer: too many symbolic links on the way to {path[:80]!r}")
                if link.startswith(b"/"):
                    here = self._reopened(here, b"")
                todo.extend(link.split(b"/")[::-1])
        except BaseException:
            os.close(here.fd)
            raise
        return here

    def _link(self, here: Directory, part: bytes, path: bytes) -> bytes | None:
        """Return the target of a link that this layer made; None when the name is to be entered."""
        made = here.children.get(part)
        if made is None or made.children is not None:
            return None
        if made.link is None:
            raise Corrupt(f"layer: {path[:80]!r} leads through {part[:80]!r}, which is no directory")
        return made.link

    def _step(self, here: Directory, part: bytes) -> Directory:
        """Enter ``part``; what a lower layer has there is replaced unless it is a directory.

        A layer is applied blindly, as overlayfs shows it: a directory of this layer hides a lower link or
        file.
        """
        child = here.below(part)
        if child.count(b"/") >= self._limits.depth:
            raise Exhausted(f"layer: more than {self._limits.depth} directories deep at {child[:80]!r}")
        made = here.children.get(part)
        if made is None:
            made = self._entered(here, part)
        fd = os.open(part, _DIRECTORY, dir_fd=here.fd)
        os.close(here.fd)
        return Directory(child, fd, made)

    def _entered(self, here: Directory, part: bytes) -> Made:
        try:
            status = os.stat(part, dir_fd=here.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                made = here.children[part] = self._adopted(here.below(part))
                return made
            os.unlink(part, dir_fd=here.fd)
        except FileNotFoundError:
            pass
        return self.imply(here, part)

    def imply(self, here: Directory, part: bytes) -> Made:
        """Make a directory that no member describes: root's, 0755, at the epoch."""
        os.mkdir(part, 0o755, dir_fd=here.fd)
        fd = os.open(part, _DIRECTORY, dir_fd=here.fd)
        try:
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o755)
        finally:
            os.close(fd)
        made = here.children[part] = Made(directory=True)
        made.standing = "implied"
        made.mtime = 0
        return made

    def _reopened(self, here: Directory, path: bytes) -> Directory:
        made = self.root
        for name in path.split(b"/") if path else ():
            made = certain(made.children, "a directory on the way")[name]
        fd = self.open_directory(path)
        os.close(here.fd)
        return Directory(path, fd, made)

    def _exists(self, path: bytes) -> bool:
        """Say whether this layer has a directory at ``path``, after its own links, without making any."""
        way = [self.root]
        todo = path.split(b"/")[::-1]
        hops = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                del way[max(1, len(way) - 1) :]
            elif part not in (b"", b"."):
                children = way[-1].children or {}
                made = children.get(part)
                if made is None:
                    return False
                if made.children is not None:
                    way.append(made)
                    continue
                hops += 1
                if made.link is None or hops > LINK_HOPS or len(todo) > self._limits.depth:
                    return False
                if made.link.startswith(b"/"):
                    del way[1:]
                todo.extend(made.link.split(b"/")[::-1])
        return True
