"""A layer as a tree in memory: the rules by which members follow upon each other, without any file system.

A layer is applied blindly: it knows nothing of the layers below it.  Within it the last member of a name wins
(I-13); links of the same layer are followed on the way to a member, inside the root (I-02); whiteouts act on
lower layers only, wherever they stand in the archive (I-05).
"""

from __future__ import annotations

import stat

import msgspec

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.certain import certain
from mesocosm.images.layers.entries import NAME_LENGTH, Whiteout
from mesocosm.images.limits import Limits

LINK_HOPS = 40
"""Symbolic links followed in one path, as the kernel's own limit (path_resolution(7))."""

NOTED_PLACES = 256
"""Implied directories whose paths are recorded with a layer; whoever has more is walked through."""

_DOT = ord(".")

Xattrs = tuple[tuple[bytes, bytes], ...]


class Node(msgspec.Struct, eq=False, gc=False):
    """One inode.  ``mode`` with its type bits, ``mtime`` in nanoseconds.

    ``address`` is where the data starts (a block number for an EROFS file), ``tail`` what is kept with the
    inode: the end of a file, or a link's target; ``chunks`` the block numbers of a sparse file's chunks of
    ``1 << chunk_bits`` bytes, -1 for a hole.  ``names`` counts the entries that lead here.
    Directories have ``children``; ``opaque`` hides what lower layers have in it, ``implied`` marks a
    directory that no member described and whose look lower layers decide.  ``layout`` and ``packed`` are the
    form that an EROFS file keeps it in, and its attributes there.

    A tree has no cycles, so the collector of garbage need not look for any.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: Xattrs = ()
    children: dict[bytes, Node] | None = None
    size: int = 0
    address: int = 0
    tail: bytes = b""
    rdev: int = 0
    nid: int = 0
    names: int = 1
    chunks: list[int] | None = None
    chunk_bits: int = 0
    whiteouts: set[bytes] | None = None
    opaque: bool = False
    implied: bool = False
    layout: int = 0
    packed: bytes = b""


def new_node(mode: int, uid: int = 0, gid: int = 0, mtime: int = 0, xattrs: Xattrs = ()) -> Node:
    """Return an inode of any kind; a directory is empty."""
    return Node(mode, uid, gid, mtime, xattrs, {} if stat.S_ISDIR(mode) else None)


def new_directory(*, implied: bool = False) -> Node:
    """Return a directory as it is made when nobody describes it: root's, 0755, at the epoch."""
    return Node(stat.S_IFDIR | 0o755, children={}, implied=implied)


def new_whiteout() -> Node:
    """Return overlayfs' sign that a name is gone: a character device 0:0 (kernel: overlayfs.rst,
    "whiteouts").
    """
    return Node(stat.S_IFCHR)


class LayerTree:
    """The tree of one layer while its members arrive.  Paths are cleaned ones, b"" is the root.

    A member that cannot be applied is Corrupt: below a file, a link to nothing, a loop.
    """

    def __init__(self, limits: Limits) -> None:
        self.root = new_directory(implied=True)
        self._limits = limits
        self._short = min(NAME_LENGTH, limits.path)
        self._parents: dict[bytes, dict[bytes, Node]] = {b"": self._children(self.root)}

    @staticmethod
    def _children(node: Node) -> dict[bytes, Node]:
        return certain(node.children, "the directory")

    def put(self, path: bytes, node: Node) -> None:
        """Put ``node`` at ``path``, in place of what an earlier member left there."""
        parent, _, name = path.rpartition(b"/")
        siblings = self._parents.get(parent)
        if siblings is None:
            siblings = self._parents[parent] = self._children(self._required(parent))
        old = siblings.get(name)
        siblings[name] = node
        if old is not None:
            self._replaced(old, node)

    def put_beside(self, path: bytes, node: Node) -> bool:
        """Put a file at ``path``, as an archive has it, into a directory that has been put into before.

        False when more than that has to be looked at, and nothing was done: what is below a directory known
        by a clean path is clean itself, but for hidden names, among which are ``..`` and whiteouts.
        """
        parent, _, name = path.rpartition(b"/")
        siblings = self._parents.get(parent)
        if siblings is None or not name or name[0] == _DOT or len(path) > self._short:
            return False
        old = siblings.get(name)
        siblings[name] = node
        if old is not None:
            self._replaced(old, node)
        return True

    def put_directory(self, path: bytes, node: Node) -> None:
        """Put a directory at ``path``; one that is there already keeps its content and takes the new look."""
        old = self._existing(path)
        if old is None:
            self.put(path, node)
            return
        old.mode, old.uid, old.gid = node.mode, node.uid, node.gid
        old.mtime, old.xattrs, old.implied = node.mtime, node.xattrs, False

    def link(self, path: bytes, target: bytes) -> None:
        """Make ``path`` another name of the file at ``target``, which must stand earlier in this layer
        (I-03).
        """
        parent, _, name = target.rpartition(b"/")
        directory = self._directory(parent)
        node = self._children(directory).get(name) if directory is not None and name else None
        if node is None:
            raise Corrupt(
                f"layer: {path[:80]!r} is a hard link to {target[:80]!r}, which is not in this layer"
            )
        if node.children is not None:
            raise Corrupt(f"layer: {path[:80]!r} is a hard link to a directory")
        node.names += 1
        if node.names > self._limits.links:
            raise Exhausted(f"layer: more than {self._limits.links} hard links to {target[:80]!r}")
        self.put(path, node)

    def white_out(self, mark: Whiteout) -> None:
        """Remember a whiteout; `settle` decides what it comes to."""
        if mark.opaque:
            self._required(mark.path).opaque = True
            return
        parent, _, name = mark.path.rpartition(b"/")
        directory = self._required(parent)
        if directory.whiteouts is None:
            directory.whiteouts = set()
        directory.whiteouts.add(name)

    def settle(self) -> list[Node]:
        """Turn whiteouts into nodes, count names, and return every inode once: parents first, names in order.

        A whiteout of a name that the layer itself has makes a directory opaque and is void for anything else,
        which hides the lower one by being there.
        """
        inodes: list[Node] = []
        linked: dict[int, list[Node]] = {}
        pending = [self.root]
        while pending:
            directory = pending.pop()
            inodes.append(directory)
            _settle_whiteouts(directory)
            directories = []
            directory.children = dict(sorted(self._children(directory).items()))
            for child in directory.children.values():
                if child.children is not None:
                    directories.append(child)
                elif child.names < 2:
                    inodes.append(child)
                elif (meetings := linked.get(id(child))) is not None:
                    meetings.append(child)
                else:
                    linked[id(child)] = [child]
                    inodes.append(child)
            pending.extend(reversed(directories))
        for meetings in linked.values():
            meetings[0].names = len(meetings)
        return inodes

    # --- ways -----------------------------------------------------------------------------------------------

    def _replaced(self, old: Node, new: Node) -> None:
        """A directory or a link that goes away may be part of remembered ways; a file cannot be.

        A directory that takes the place of anything else hides what lower layers have: the name was no
        directory in between.
        """
        old.names -= 1
        if old.children is not None or stat.S_ISLNK(old.mode):
            self._parents = {b"": self._children(self.root)}
        if new.children is not None:
            new.opaque = True

    def _existing(self, path: bytes) -> Node | None:
        """Return the directory at ``path`` itself, not one that a link at ``path`` leads to."""
        if not path:
            return self.root
        parent, _, name = path.rpartition(b"/")
        siblings = self._parents.get(parent)
        node = (siblings if siblings is not None else self._children(self._required(parent))).get(name)
        return node if node is not None and node.children is not None else None

    def _required(self, path: bytes) -> Node:
        """Return the directory at ``path`` after links, made when it is missing."""
        return certain(self._walk(path, create=True), "the directory")

    def _directory(self, path: bytes) -> Node | None:
        """Return the directory at ``path`` after links, or None when the way there does not exist."""
        return self._walk(path, create=False)

    def _walk(self, path: bytes, *, create: bool) -> Node | None:
        """Go to ``path`` as the kernel would with the root as its root directory, and make what is missing.

        ``..`` in a link's target ends at the root.  A walk of its own beside unpack/tree.py, which holds what
        it passes by descriptors, erofs/reader.py, which makes nothing, and layered.py, where a directory is
        several: they share the way and differ in every step, and here each member of an archive comes by.
        """
        way = [self.root]
        todo = path.split(b"/")[::-1]
        hops = 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                del way[max(1, len(way) - 1) :]
                continue
            children = self._children(way[-1])
            node = children.get(part)
            if node is None:
                if not create:
                    return None
                node = children[part] = new_directory(implied=True)
            if node.children is not None:
                way.append(node)
            elif stat.S_ISLNK(node.mode):
                hops += 1
                if hops > LINK_HOPS or len(todo) > self._limits.depth:
                    raise Corrupt(f"layer: too many symbolic links on the way to {path[:80]!r}")
                if node.tail.startswith(b"/"):
                    del way[1:]
                todo.extend(node.tail.split(b"/")[::-1])
            else:
                raise Corrupt(f"layer: {path[:80]!r} leads through {part[:80]!r}, which is no directory")
            if len(way) > self._limits.depth:
                raise Exhausted(f"layer: more than {self._limits.depth} directories deep at {path[:80]!r}")
        return way[-1]


def implied_places(root: Node, count: int) -> tuple[str, ...] | None:
    """Return where the implied directories below ``root`` are, of ``count`` with it.

    None when they are more than `NOTED_PLACES`, or a path is no UTF-8.
    """
    if count > NOTED_PLACES:
        return None
    found: list[bytes] = []
    pending = [(b"", root)] if count > root.implied else []
    while pending:
        path, directory = pending.pop()
        for name, child in (directory.children or {}).items():
            if child.children is not None:
                pending.append((path + name + b"/", child))
                found += [path + name] if child.implied else []
    try:
        return tuple(sorted(path.decode() for path in found))
    except UnicodeDecodeError:
        return None


def _settle_whiteouts(directory: Node) -> None:
    children = certain(directory.children, "the directory")
    for name in directory.whiteouts or ():
        child = children.get(name)
        if child is None:
            if not directory.opaque:
                children[name] = new_whiteout()
        elif child.children is not None:
            child.opaque = True
    directory.whiteouts = None
