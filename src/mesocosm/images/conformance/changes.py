"""What a container does to its root, and the layer that a commit would make of that."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mesocosm.images.conformance.assembled import differences, seen
from mesocosm.images.conformance.facts import hold
from mesocosm.images.conformance.layers import (
    LAYERS,
    Layer,
    Tree,
    directory,
    file,
    hardlink,
    removed,
    stacked,
    symlink,
)

CHANGES: Final[Layer] = (
    file(b"d/kept", b"changed"),
    removed(b"d/removed"),
    removed(b"d/replaced"),
    file(b"moved", b"old", 0o600),
    removed(b"directory-to-file"),
    directory(b"directory-to-file", 0o711),
    directory(b"sticky", 0o700),
    file(b"closed", b"secret", 0, uid=9, gid=10),
    file(b"attributes", xattrs=(("user.b", b"own"), ("user.empty", b""))),
    file(b"new", b"new"),
    hardlink(b"new-2", b"new"),
    symlink(b"new-link", b"new"),
)
"""What `change` does, as the layer that a commit would make of it."""


def change(root: Path) -> None:
    """Do with the first of `LAYERS` what a container may do with its root."""
    (root / "d/kept").write_bytes(b"changed")
    (root / "d/removed").unlink()
    (root / "d/replaced").rename(root / "moved")
    shutil.rmtree(root / "directory-to-file")
    (root / "directory-to-file").mkdir()
    (root / "directory-to-file").chmod(0o711)
    (root / "sticky").chmod(0o700)
    os.chown(root / "closed", 9, 10)
    os.setxattr(root / "attributes", "user.b", b"own")
    os.removexattr(root / "attributes", "user.a")
    (root / "new").write_bytes(b"new")
    (root / "new").chmod(0o644)
    os.link(root / "new", root / "new-2")
    (root / "new-link").symlink_to("new")


REFUSED: Final[dict[str, Callable[[Path], object]]] = {
    "a new file": lambda root: (root / "new").write_bytes(b"x"),
    "a new directory": lambda root: (root / "d/new").mkdir(),
    "other bytes in a file": lambda root: (root / "d/kept").write_bytes(b"x"),
    "another mode": lambda root: (root / "d").chmod(0o700),
    "another owner": lambda root: os.chown(root / "d/kept", 1, 1),
    "another time": lambda root: os.utime(root / "d/kept", (0, 0)),
    "another attribute": lambda root: os.setxattr(root / "d/kept", "user.b", b"x"),
    "one file less": lambda root: (root / "d/removed").unlink(),
    "another name": lambda root: (root / "d/replaced").rename(root / "d/moved"),
}
"""What a root without a place for changes answers with EROFS."""


def hold_changed(root: Path) -> None:
    """The root shows the first of `LAYERS` with the changes, and nothing else; times are the moment's."""
    expected = stacked((LAYERS[0], CHANGES))
    hold(not (said := differences(_timeless(seen(root)), _timeless(expected))), f"after its changes:\n{said}")


def hold_refused(root: Path) -> None:
    """Every change is answered as by a read-only file system."""
    for what, act in REFUSED.items():
        try:
            act(root)
        except OSError as error:
            hold(error.errno == errno.EROFS, f"{what}: {error}, instead of EROFS")
        else:
            raise AssertionError(f"{what} was taken")


def _timeless(tree: Tree) -> Tree:
    return tree._replace(names={path: one._replace(mtime=0) for path, one in tree.names.items()})
