"""Whiteouts on a directory tree: they take away what lower layers left, never what this layer brings (I-04,
I-05).
"""

from __future__ import annotations

import os
import stat

from mesocosm.images.unpack.tree import Directory, Made, Tree
from mesocosm.linux.beneath import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def apply_whiteout(tree: Tree, directory: Directory, name: bytes) -> None:
    """Remove what a lower layer has at ``name``; of a directory that this layer also has, its other
    content.
    """
    made = directory.children.get(name)
    if made is None:
        remove_tree(directory.fd, name)
    elif made.children is not None:
        fd = os.open(name, _DIRECTORY, dir_fd=directory.fd)
        try:
            _prune(fd, made)
        finally:
            os.close(fd)
        made.opaque = True


def apply_opaque(directory: Directory) -> None:
    """Remove what lower layers have in a directory."""
    _prune(directory.fd, directory.made)


def _prune(fd: int, made: Made) -> None:
    """Leave only what this layer made; a directory that it did not describe looks like new then."""
    if made.standing == "lower":
        os.fchown(fd, 0, 0)
        os.fchmod(fd, 0o755)
        made.standing = "implied"
        made.mtime = 0
    children = made.children or {}
    for name in map(os.fsencode, os.listdir(fd)):  # noqa: PTH208
        child = children.get(name)
        if child is None:
            remove_tree(fd, name)
        elif child.children is not None:
            inner = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                _prune(inner, child)
            finally:
                os.close(inner)


def remember(directory: Directory, name: bytes) -> None:
    """Note a whiteout for `settle`: a later member of the same name makes it void."""
    if directory.made.whiteouts is None:
        directory.made.whiteouts = set()
    directory.made.whiteouts.add(name)


def settle(tree: Tree, *, overlay: bool) -> int:
    """Give every directory its whiteouts (for overlayfs) and, deepest first, its time.  Returns the
    implied ones.
    """
    order: list[tuple[bytes, Made]] = []
    pending = [(b"", tree.root)]
    while pending:
        path, made = pending.pop()
        order.append((path, made))
        _decide(made)
        prefix = path + b"/" if path else b""
        for name, child in (made.children or {}).items():
            if child.children is not None:
                pending.append((prefix + name, child))
    for path, made in reversed(order):
        fd = tree.open_directory(path)
        try:
            if overlay:
                _mark(fd, made)
            if made.mtime is not None:
                os.utime(fd, ns=(made.mtime, made.mtime))
        finally:
            os.close(fd)
    return sum(made.standing == "implied" for _, made in order)


def _decide(made: Made) -> None:
    """A whiteout of a name that the layer has makes a directory opaque, and is void for a file."""
    for name in made.whiteouts or ():
        child = (made.children or {}).get(name)
        if child is not None and child.children is not None:
            child.opaque = True


def _mark(fd: int, made: Made) -> None:
    """Put overlayfs' signs into a directory (kernel: overlayfs.rst, "whiteouts and opaque directories")."""
    children = made.children or {}
    for name in made.whiteouts or ():
        if name not in children and not made.opaque:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=fd)
    if made.opaque:
        os.setxattr(fd, "trusted.overlay.opaque", b"y")
    if made.standing == "implied":
        os.setxattr(fd, "trusted.overlay.mesocosm.implied", b"y")
