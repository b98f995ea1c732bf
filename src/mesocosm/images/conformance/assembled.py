"""Roots as a container's child assembles them, for a test to look into and write to.

They are mounted detached and reached through /proc/self/fd: nothing of them appears in the mount table, and
nothing can be left there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mesocosm.images.conformance.layers import CAPABILITY, Shown, Tree
from mesocosm.linux import mounts, userns
from mesocosm.model.idmap import IDMap, IDRange
from mesocosm.plan import RootStep
from mesocosm.plan.operations import BindRoot, OverlayRoot


@contextlib.contextmanager
def assembled(step: RootStep) -> Iterator[Path]:
    """The root that a step stands for, as a path that is good until the end of the context."""
    with contextlib.ExitStack() as held:
        fd = _mounted(step, held)
        held.callback(os.close, fd)
        yield Path(f"/proc/self/fd/{fd}")


def seen(root: Path) -> Tree:
    """What a root shows.  Of attributes those that layers may have; the root directory itself is not in it.

    Left out are names that are listed but not there: overlayfs lists a whiteout in a directory that one layer
    alone has.
    """
    names: dict[bytes, Shown] = {}
    same: defaultdict[tuple[int, int], set[bytes]] = defaultdict(set)
    pending = [b""]
    while pending:
        path = pending.pop()
        here = os.fsencode(root) + b"/" + path
        try:
            status = os.lstat(here)
        except FileNotFoundError:
            continue
        if path:
            names[path] = _shown(here, status)
        if stat.S_ISDIR(status.st_mode):
            pending += [path + b"/" + name if path else name for name in os.listdir(here)]  # noqa: PTH208
        else:
            same[status.st_dev, status.st_ino].add(path)
    return Tree(names, frozenset(frozenset(paths) for paths in same.values() if len(paths) > 1))


def differences(found: Tree, expected: Tree) -> str:
    """In what a root is not what it should be, one line each; empty when it is."""
    lines = [f"not shown: {name!r}" for name in sorted(expected.names.keys() - found.names.keys())]
    lines += [f"shown too: {name!r}" for name in sorted(found.names.keys() - expected.names.keys())]
    for name in sorted(found.names.keys() & expected.names.keys()):
        pairs = zip(Shown._fields, found.names[name], expected.names[name], strict=True)
        lines += [
            f"{name!r}: {field} {one!r:.80}, not {two!r:.80}" for field, one, two in pairs if one != two
        ]
    lines += [f"not one file: {sorted(one)}" for one in expected.linked - found.linked]
    lines += [f"one file: {sorted(one)}" for one in found.linked - expected.linked]
    return "\n".join(lines)


def _mounted(step: RootStep, held: contextlib.ExitStack) -> int:
    if isinstance(step, BindRoot):
        fd = _cloned(step.source, step.idmap, held, recursive=True)
        if step.read_only:
            mounts.set_attributes(fd, mounts.ATTRIBUTES["ro"], recursive=True)
        return os.dup(fd)
    if isinstance(step, OverlayRoot):
        layers = [_cloned(layer, step.idmap, held) if step.idmap else layer for layer in step.layers]
        options = [("volatile", None)] if step.upper is not None and step.volatile else []
        return mounts.overlay(layers, upper=step.upper, work=step.work, options=options, aside=step.layers[0])
    raise AssertionError(f"{step.describe()}: that is no root of layers")


def _cloned(place: str, idmap: IDMap | None, held: contextlib.ExitStack, *, recursive: bool = False) -> int:
    fd = mounts.clone_tree(place, recursive=recursive)
    held.callback(os.close, fd)
    if idmap is not None:
        namespace = userns.make(_lines(idmap.uids), _lines(idmap.gids))
        try:
            mounts.set_attributes(fd, 0, recursive=recursive, userns_fd=namespace)
        finally:
            os.close(namespace)
    return fd


def _lines(ranges: tuple[IDRange, ...]) -> str:
    return "".join(f"{one.container} {one.host} {one.length}\n" for one in ranges)


def _shown(path: bytes, status: os.stat_result) -> Shown:
    kind = stat.S_IFMT(status.st_mode)
    device = status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    content = b""
    if kind == stat.S_IFREG:
        content = Path(os.fsdecode(path)).read_bytes()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)  # noqa: PTH115
    return Shown(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        content=content,
        device=(os.major(device), os.minor(device)),
        xattrs=tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
            if name.startswith("user.") or name == CAPABILITY
        ),
    )
