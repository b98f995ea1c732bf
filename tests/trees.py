"""Comparing directory trees: everything that lstat, readlink, listxattr and lseek tell of them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

DATA = 4096
HUGE = 1 << 30


class Seen(NamedTuple):
    """One name of a tree.  ``size`` is None for directories; ``same_as`` is the first of several hard links'
    names;
    ``data`` are the (start, end) of a file's data as `SEEK_DATA` and `SEEK_HOLE` tell, only when asked for.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size: int | None
    nlink: int | None
    mtime: int
    device: int
    target: bytes
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    same_as: bytes
    data: tuple[tuple[int, int], ...] | None


_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def snapshot(
    path: Path | str, *, holes: bool = False, xattrs: bool = True, closed: Collection[bytes] = ()
) -> dict[bytes, Seen]:
    """Return what is below ``path``, itself as b"."; nothing is followed, mounts below are entered, the
    directories named in ``closed`` are not.

    Attributes of overlayfs' own name space are left out: they say nothing to who looks into the tree.  So are
    names that are listed but not there: overlayfs lists a whiteout in a directory that one layer alone has.
    """
    root = os.fsencode(path)
    found: dict[bytes, Seen] = {}
    first_names: dict[tuple[int, int], bytes] = {}
    pending = [b"."]
    while pending:
        name = pending.pop()
        full = root if name == b"." else root + b"/" + name
        try:
            status = os.lstat(full)
        except FileNotFoundError:
            if name == b".":
                raise
            continue
        if stat.S_ISDIR(status.st_mode) and name not in closed:
            children = sorted(os.listdir(full), reverse=True)
            pending += [child if name == b"." else name + b"/" + child for child in children]
        first = b""
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            first = first_names.setdefault((status.st_dev, status.st_ino), name)
        found[name] = _seen(full, status, first, holes=holes, xattrs=xattrs)
    return found


def _seen(full: bytes, status: os.stat_result, first: bytes, *, holes: bool, xattrs: bool) -> Seen:
    kind = stat.S_IFMT(status.st_mode)
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Seen(
        kind=_KINDS[kind],
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=None if kind == stat.S_IFDIR else status.st_size,
        nlink=None if kind == stat.S_IFDIR else status.st_nlink,
        mtime=status.st_mtime_ns,
        device=status.st_rdev if device else 0,
        target=os.readlink(full) if kind == stat.S_IFLNK else b"",
        content=_digest(full) if kind == stat.S_IFREG else "",
        xattrs=_xattrs(full) if xattrs else (),
        same_as=first,
        data=_data(full) if holes and kind == stat.S_IFREG else None,
    )


def _digest(full: bytes) -> str:
    """Of the content; of what a huge file has besides zeroes, and where."""
    with open(full, "rb") as file:
        if os.fstat(file.fileno()).st_size < HUGE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256()
        for start, end in _data(full):
            for at in range(start, end, DATA):
                block = os.pread(file.fileno(), min(DATA, end - at), at)
                if block.strip(b"\0"):
                    found.update(b"%d %b" % (at, block))
        return found.hexdigest()


def _xattrs(full: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(full, follow_symlinks=False))
    return tuple(
        (name, os.getxattr(full, name, follow_symlinks=False))
        for name in names
        if not name.startswith("trusted.overlay.")
    )


def _data(full: bytes) -> tuple[tuple[int, int], ...]:
    found = []
    fd = os.open(full, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        at = 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, at))
    finally:
        os.close(fd)
    return tuple(found)


def differences(
    left: dict[bytes, Seen], right: dict[bytes, Seen], *, ignore: tuple[str, ...] = ()
) -> list[str]:
    """Return one line for each way in which two snapshots differ; fields named in ``ignore`` do not count."""
    lines = [f"only left: {name!r}" for name in sorted(left.keys() - right.keys())]
    lines += [f"only right: {name!r}" for name in sorted(right.keys() - left.keys())]
    for name in sorted(left.keys() & right.keys()):
        ours, theirs = left[name], right[name]
        lines += [
            f"{name!r}: {field} {getattr(ours, field)!r} != {getattr(theirs, field)!r}"
            for field in Seen._fields
            if field not in ignore and getattr(ours, field) != getattr(theirs, field)
        ]
    return lines
