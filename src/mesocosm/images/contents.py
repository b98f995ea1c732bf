"""What an image's root holds: its layers' trees one upon the other, read from their indexes without mounting
(ready-made EROFS files, whose indexes may be of any kind, are mounted where nobody else sees it).

with reading(store, image, form) as contents:
    for path, file in contents.files(): ...
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from mesocosm.errors import NotFound
from mesocosm.images.digest import Digest
from mesocosm.images.erofs.reader import ErofsImage
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.looks import IMPLIED, OPAQUE, closing
from mesocosm.images.layers.mounts import mount_image
from mesocosm.images.layers.store import Form
from mesocosm.images.layers.tree import Node, new_directory, new_node

READ_LIMIT: Final = 4 << 30
"""Largest file whose content is read, in bytes."""


class LayerReader(Protocol):
    """One layer: its tree, and the bytes of its files."""

    def tree(self) -> Node: ...
    def read_file(self, path: bytes, limit: int) -> bytes: ...


class File:
    """One name in an image's root: its inode, and the layer (diff ID) it comes from."""

    __slots__ = ("children", "layer", "node", "path")

    def __init__(self, path: bytes, node: Node, layer: str) -> None:
        self.path = path
        self.node = node
        self.layer = layer
        self.children: dict[bytes, File] | None = {} if node.children is not None else None


class Contents:
    """The files of one image; blocking."""

    def __init__(self, layers: dict[str, LayerReader], order: tuple[str, ...]) -> None:
        self._layers = layers
        self.root = File(b"", new_directory(), "")
        trees = {diff_id: layer.tree() for diff_id, layer in layers.items()}
        for diff_id in order:
            _apply(self.root, trees[diff_id], diff_id)

    def files(self) -> Iterator[tuple[bytes, File]]:
        """Yield (path, file) of everything below the root, parents first, names in order."""
        pending = [self.root]
        while pending:
            file = pending.pop()
            if file.path:
                yield file.path, file
            children = sorted((file.children or {}).items(), reverse=True)
            pending += [child for _, child in children]

    def read(self, file: File) -> bytes:
        """Return a regular file's bytes; raises Exhausted above `READ_LIMIT`."""
        return self._layers[file.layer].read_file(file.path, READ_LIMIT)


def _apply(root: File, tree: Node, layer: str) -> None:
    """Lay a layer's tree upon what is there (OCI image spec, layer.md "Applying Changesets")."""
    pending = [(root, tree)]
    while pending:
        below, above = pending.pop()
        held = below.children if below.children is not None else {}
        if above.opaque:
            held.clear()
        for name, node in (above.children or {}).items():
            if _is_whiteout(node):
                held.pop(name, None)
                continue
            path = below.path + b"/" + name if below.path else name
            file = held.get(name)
            if node.children is None or file is None or file.children is None:
                file = held[name] = File(path, node, layer)
            elif not node.implied:
                file.node, file.layer = node, layer
            if node.children is not None:
                pending.append((file, node))


def _is_whiteout(node: Node) -> bool:
    """A character device 0:0 (kernel: overlayfs.rst, "whiteouts")."""
    return stat.S_ISCHR(node.mode) and node.rdev == 0


class TreeLayer:
    """A layer that is kept as a directory."""

    def __init__(self, root: Path | str) -> None:
        """``root``: as text where its last part is ``.``, which a Path leaves out: a link is not the tree."""
        self._root = os.fsencode(root)

    def tree(self) -> Node:
        """Return the tree, hard links being one node each."""
        top = _node_of(self._root)
        known: dict[int, Node] = {}
        pending = [(self._root, top)]
        while pending:
            path, node = pending.pop()
            children = node.children
            for name in sorted(os.listdir(path)) if children is not None else ():  # noqa: PTH208
                below = path + b"/" + name
                inode = os.lstat(below).st_ino
                child = known.get(inode) or _node_of(below)
                if child.names > 1:
                    known[inode] = child
                if children is not None:
                    children[name] = child
                if child.children is not None:
                    pending.append((below, child))
        return top

    def read_file(self, path: bytes, limit: int) -> bytes:
        """Return a regular file's bytes, at most ``limit``."""
        fd = os.open(self._root + b"/" + path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            return file.read(limit)


def _node_of(path: bytes) -> Node:
    found = os.lstat(path)
    xattrs = _xattrs(path)
    plain = tuple(sorted((name.encode(), value) for name, value in xattrs.items() if not _is_ours(name)))
    is_directory = stat.S_ISDIR(found.st_mode)
    node = new_node(found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, plain)
    node.nid, node.names = found.st_ino, 1 if is_directory else found.st_nlink
    node.size = 0 if is_directory else found.st_size
    node.opaque, node.implied = xattrs.get(OPAQUE) == b"y", IMPLIED in xattrs
    if stat.S_ISLNK(found.st_mode):
        node.tail = os.readlink(path)  # noqa: PTH115
    elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        node.rdev = found.st_rdev
    return node


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _is_ours(name: str) -> bool:
    return name.startswith("trusted.overlay.")


def _form(store: ImageStore, diff_id: Digest, preferred: Form) -> Form:
    for form in (preferred, Form.EROFS, Form.TREE):
        if store.layers.has(diff_id, form):
            return form
    raise NotFound(f"layer {diff_id} is not on this host", hint="pull the image again")


@contextlib.contextmanager
def reading(store: ImageStore, image: ImageRecord, preferred: Form) -> Iterator[Contents]:
    """The contents of an image whose layers are there in whatever form; blocking.  NotFound, Corrupt."""
    with contextlib.ExitStack() as stack:
        layers: dict[str, LayerReader] = {}
        for diff_id in image.diff_ids:
            form = _form(store, diff_id, preferred)
            content = store.layers.content(diff_id, form)
            record = store.layers.record(diff_id, form)
            if record is not None and record.ready:
                root = stack.enter_context(closing([mount_image((content,))]))[0]
                layers[str(diff_id)] = TreeLayer(f"/proc/self/fd/{root}/.")
            elif form is Form.EROFS:
                layers[str(diff_id)] = stack.enter_context(ErofsImage(content))
            else:
                layers[str(diff_id)] = TreeLayer(content)
        yield Contents(layers, tuple(map(str, image.diff_ids)))
