"""Comparing two images file by file, from their layers' indexes.

Files of the same layer are the same without a look at them; content is read only where sizes are equal and
layers are not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Literal

import msgspec

from mesocosm.images.contents import Contents, File, reading
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.store import Form

Kind = Literal["added", "changed", "removed"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One path that differs, absolute, undecodable bytes escaped as by ``os.fsdecode``.

    ``what`` names the aspects that changed, for people: content, type, mode, owner, time, attributes, target,
    device.  ``before`` and ``after`` are sizes in bytes, 0 for what is not a regular file.
    """

    path: str
    kind: Kind
    what: tuple[str, ...] = ()
    before: int = 0
    after: int = 0


def differences(store: ImageStore, old: ImageRecord, new: ImageRecord, form: Form) -> list[Change]:
    """Return every difference between two images whose layers are there, by path; blocking."""
    with reading(store, old, form) as before, reading(store, new, form) as after:
        return list(compare(before, after))


def compare(old: Contents, new: Contents) -> Iterator[Change]:
    """Yield every difference, by path; blocking."""
    before, after = dict(old.files()), dict(new.files())
    for path in sorted(before.keys() | after.keys()):
        left, right = before.get(path), after.get(path)
        name = "/" + os.fsdecode(path)
        if left is None and right is not None:
            yield Change(path=name, kind="added", after=_size(right))
        elif right is None and left is not None:
            yield Change(path=name, kind="removed", before=_size(left))
        elif left is not None and right is not None:
            what = _differences(left, right, old, new)
            if what:
                yield Change(path=name, kind="changed", what=what, before=_size(left), after=_size(right))


def _size(file: File) -> int:
    return file.node.size if stat.S_ISREG(file.node.mode) else 0


def _differences(left: File, right: File, old: Contents, new: Contents) -> tuple[str, ...]:
    one, two = left.node, right.node
    if left.layer == right.layer and one.nid == two.nid:
        return ()
    if stat.S_IFMT(one.mode) != stat.S_IFMT(two.mode):
        return ("type",)
    aspects = {
        "content": stat.S_ISREG(one.mode) and _content_differs(left, right, old, new),
        "target": stat.S_ISLNK(one.mode) and one.tail != two.tail,
        "device": one.rdev != two.rdev,
        "mode": one.mode != two.mode,
        "owner": (one.uid, one.gid) != (two.uid, two.gid),
        "time": one.mtime != two.mtime,
        "attributes": sorted(one.xattrs) != sorted(two.xattrs),
    }
    return tuple(name for name, differs in aspects.items() if differs)


def _content_differs(left: File, right: File, old: Contents, new: Contents) -> bool:
    if left.node.size != right.node.size:
        return True
    return left.node.size > 0 and old.read(left) != new.read(right)
