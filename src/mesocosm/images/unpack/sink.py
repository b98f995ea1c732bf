"""Unpacks a layer into a directory tree, by descriptors only.

Two flavours.  "apply" changes a tree that lower layers were unpacked into, whiteouts delete (for the copy
backend and flattened roots).  "overlay" makes the directory of one layer for overlayfs, with its signs for
whiteouts. What a member becomes is umoci's and GNU tar's answer: mode, owner, times in nanoseconds,
attributes, hard links, holes; the times of directories are those of the archive, or what they were before
(attacks I-01 to I-13).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path
from typing import Literal

from mesocosm.errors import Corrupt, Exhausted, MesocosmError, Unsupported
from mesocosm.images.layers.entries import Whiteout, admit, admitted_xattrs, clean_path, whiteout
from mesocosm.images.layers.facts import StreamHash, TreeFacts
from mesocosm.images.layers.tree_seal import Content, Written, seal_of_tree
from mesocosm.images.limits import DEFAULT_LIMITS, DEFAULT_POLICY, Limits, Policy
from mesocosm.images.tar.header import HARDLINK, Extents, TarEntry
from mesocosm.images.tar.reader import EntrySink
from mesocosm.images.unpack.tree import Directory, Made, Tree
from mesocosm.images.unpack.whiteouts import apply_opaque, apply_whiteout, remember, settle
from mesocosm.linux.beneath import make_node, remove_tree

Flavour = Literal["apply", "overlay"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = b".mesocosm-link-%d"
_libc = ctypes.CDLL(None, use_errno=True)


class DirectorySink(EntrySink):
    """Takes a layer's members and puts them below ``path``.

    A ``path`` that does not exist is made, and removed again by `abort`; one that exists is changed in place
    (flavour "apply"), and `abort` leaves it half-changed for its owner to remove.  `finish` makes all
    durable. Needs root: owners and device nodes are kept.
    """

    def __init__(
        self,
        path: Path,
        *,
        flavour: Flavour = "apply",
        limits: Limits = DEFAULT_LIMITS,
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        self._path = path
        self._ours = _make_root(path)
        self._overlay = flavour == "overlay"
        self._limits = limits
        self._policy = policy
        self._root_fd = os.open(path, _ROOT)
        self._tree = Tree(self._root_fd, limits)
        if self._ours:
            self._tree.root.standing = "implied"
            self._tree.root.mtime = 0
        else:
            self._tree.root.mtime = os.fstat(self._root_fd).st_mtime_ns
        self._fd = -1
        self._entry: TarEntry | None = None
        self._extents: Extents | None = None
        self._extent = 0
        self._done = 0
        self._size = 0
        self._content: Content | None = None
        self._written = Written()

    # --- members --------------------------------------------------------------------------------------------

    def raw(self, block: bytes) -> None:
        """Take the stream itself: nothing is done with it here."""

    def begin(self, entry: TarEntry) -> None:
        """Take a member."""
        path = clean_path(entry.path, self._limits)
        mark = whiteout(path)
        try:
            if mark is not None:
                self._white_out(mark)
            elif admit(entry, path, self._policy):
                self._put(entry, path)
        except OSError as error:
            raise _translated(error, path) from error

    def _put(self, entry: TarEntry, path: bytes) -> None:
        if not path:
            self._describe_root(entry)
            return
        parent, _, name = path.rpartition(b"/")
        directory = self._tree.directory(parent)
        kind = entry.kind
        if kind == stat.S_IFREG:
            self._begin_file(entry, directory, name)
        elif kind == stat.S_IFDIR:
            self._make_directory(entry, directory, name, path)
        elif kind == stat.S_IFLNK:
            self._make_symlink(entry, directory, name)
        elif kind == HARDLINK:
            self._make_link(entry, directory, name, path)
        else:
            self._make_special(entry, directory, name)

    def _white_out(self, mark: Whiteout) -> None:
        if not mark.path and not mark.opaque:
            return
        if mark.opaque:
            directory = self._tree.directory(mark.path)
            if self._overlay:
                directory.made.opaque = True
            apply_opaque(directory)
            return
        parent, _, name = mark.path.rpartition(b"/")
        directory = self._tree.directory(parent)
        if self._overlay:
            remember(directory, name)
        apply_whiteout(self._tree, directory, name)

    # --- directories ----------------------------------------------------------------------------------------

    def _describe_root(self, entry: TarEntry) -> None:
        _describe(self._root_fd, entry, b"/")
        self._tree.root.standing = "described"
        self._tree.root.mtime = entry.mtime

    def _make_directory(self, entry: TarEntry, directory: Directory, name: bytes, path: bytes) -> None:
        made = directory.children.get(name)
        if made is None or made.children is None:
            made = self._new_directory(directory, name, made)
        fd = os.open(name, _ROOT, dir_fd=directory.fd)
        try:
            _describe(fd, entry, path)
        finally:
            os.close(fd)
        made.standing = "described"
        made.mtime = entry.mtime

    def _new_directory(self, directory: Directory, name: bytes, old: Made | None) -> Made:
        """Make a directory, or take over a lower layer's.  One that replaces a file of this layer is
        opaque.
        """
        made = Made(directory=True)
        made.opaque = old is not None
        try:
            os.mkdir(name, 0o700, dir_fd=directory.fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                self._tree.remove(directory, name)
                os.mkdir(name, 0o700, dir_fd=directory.fd)
        directory.children[name] = made
        return made

    # --- files ----------------------------------------------------------------------------------------------

    def _begin_file(self, entry: TarEntry, directory: Directory, name: bytes) -> None:
        try:
            self._fd = os.open(name, _CREATE, 0o600, dir_fd=directory.fd)
        except FileExistsError:
            self._tree.remove(directory, name)
            self._fd = os.open(name, _CREATE, 0o600, dir_fd=directory.fd)
        directory.children[name] = Made(directory=False)
        self._entry = entry
        self._size += entry.stored
        self._extents = entry.extents
        self._extent = self._done = 0
        self._content = Content() if self._overlay else None
        if self._extents is not None:
            os.ftruncate(self._fd, entry.size)

    def data(self, view: memoryview) -> None:
        """Take the next bytes of the file begun last."""
        if self._fd < 0:
            return
        try:
            if self._extents is not None:
                self._write_sparse(self._extents, view)
                return
            if self._content is not None:
                self._content.update(view)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise _translated(error, self._path_of_entry()) from error

    def _write_sparse(self, extents: Extents, view: memoryview) -> None:
        while view:
            offset, length = extents[self._extent]
            written = os.pwrite(self._fd, view[: length - self._done], offset + self._done)
            if self._content is not None:
                self._content.skip_to(offset)
                self._content.update(view[:written])
            view = view[written:]
            self._done += written
            if self._done == length:
                self._extent += 1
                self._done = 0

    def end(self) -> None:
        """The file begun last is complete."""
        if self._fd < 0 or self._entry is None:
            return
        fd, entry = self._fd, self._entry
        self._fd, self._entry = -1, None
        try:
            _describe(fd, entry, entry.path)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
            if self._content is not None:
                self._content.skip_to(entry.size)
                self._written.add(fd, self._content, dressed=bool(entry.xattrs))
        except OSError as error:
            raise _translated(error, entry.path) from error
        finally:
            os.close(fd)

    def _path_of_entry(self) -> bytes:
        return self._entry.path if self._entry is not None else b""

    # --- links and special files ----------------------------------------------------------------------------

    def _make_symlink(self, entry: TarEntry, directory: Directory, name: bytes) -> None:
        try:
            os.symlink(entry.link, name, dir_fd=directory.fd)
        except FileExistsError:
            self._tree.remove(directory, name)
            os.symlink(entry.link, name, dir_fd=directory.fd)
        directory.children[name] = Made(directory=False, link=entry.link)
        self._dress(entry, directory, name)

    def _make_special(self, entry: TarEntry, directory: Directory, name: bytes) -> None:
        """Make a device node or FIFO; such a file is never opened, which could block or act (I-06)."""
        self._tree.remove(directory, name)
        device = os.makedev(entry.major, entry.minor) if entry.kind != stat.S_IFIFO else 0
        make_node(directory.fd, name, entry.kind, entry.mode, device)
        directory.children[name] = Made(directory=False)
        self._dress(entry, directory, name)

    def _dress(self, entry: TarEntry, directory: Directory, name: bytes) -> None:
        os.chown(name, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)
        times = (entry.mtime, entry.mtime)
        os.utime(name, ns=times, dir_fd=directory.fd, follow_symlinks=False)

    def _make_link(self, entry: TarEntry, directory: Directory, name: bytes, path: bytes) -> None:
        """Make a hard link to a file of this layer, a symbolic link itself included, never to what it names
        (I-03).

        Made under another name first: what it replaces may be a directory that holds its target.
        """
        target = clean_path(entry.link, self._limits)
        found = self._tree.locate(target)
        if found is None:
            raise Corrupt(
                f"layer: {path[:80]!r} is a hard link to {entry.link[:80]!r}, which is not in this layer"
            )
        source, made = found
        if made.children is not None:
            raise Corrupt(f"layer: {path[:80]!r} is a hard link to a directory")
        if made is directory.children.get(name):
            return
        made.names += 1
        if made.names > self._limits.links:
            raise Exhausted(f"layer: more than {self._limits.links} hard links to {entry.link[:80]!r}")
        target_name = target.rpartition(b"/")[2]
        try:
            self._link(source, target_name, directory, name)
        except FileExistsError:
            temporary = self._link_temporary(source, target_name, directory)
            self._tree.remove(directory, name)
            os.rename(temporary, name, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        directory.children[name] = made

    def _link(self, source: Directory, target: bytes, directory: Directory, name: bytes) -> None:
        os.link(target, name, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)

    def _link_temporary(self, source: Directory, target: bytes, directory: Directory) -> bytes:
        number = 0
        while True:
            name = _TEMPORARY % number
            try:
                self._link(source, target, directory, name)
            except FileExistsError:
                number += 1
            else:
                return name

    # --- the end --------------------------------------------------------------------------------------------

    def finish(self, tar: StreamHash) -> TreeFacts:
        """Write whiteouts and the times of directories, and make everything durable."""
        try:
            implied = settle(self._tree, overlay=self._overlay)
            seal = seal_of_tree(self._path, self._written) if self._overlay else ""
            if _libc.syncfs(self._root_fd) < 0:
                raise OSError(ctypes.get_errno(), "syncfs", str(self._path))
        except OSError as error:
            raise _translated(error, b"/") from error
        self._close()
        return TreeFacts(self._size, seal, implied)

    def abort(self) -> None:
        """Remove a tree that this sink made.  Nothing happens after `finish`, or when called again."""
        if self._root_fd < 0:
            return
        self._close()
        if self._ours:
            parent = os.open(self._path.parent, _ROOT & ~os.O_NOFOLLOW)
            try:
                remove_tree(parent, os.fsencode(self._path.name))
            finally:
                os.close(parent)

    def _close(self) -> None:
        self._tree.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        os.close(self._root_fd)
        self._root_fd = -1


def _make_root(path: Path) -> bool:
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        return False
    path.chmod(0o755)
    return True


def _describe(fd: int, entry: TarEntry, path: bytes) -> None:
    """Give an open file or directory its owner, mode and attributes.

    In this order: chown(2) takes set-user-ID bits and capabilities away.
    """
    os.fchown(fd, entry.uid, entry.gid)
    os.fchmod(fd, entry.mode)
    if entry.kind == stat.S_IFDIR:
        for name in os.listxattr(fd):
            if name.startswith("user."):
                os.removexattr(fd, name)
    if entry.xattrs:
        for key, value in admitted_xattrs(entry.xattrs, entry.kind, path):
            os.setxattr(fd, key, value)


def _translated(error: OSError, path: bytes) -> MesocosmError | OSError:
    where = f"{path[:80]!r}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Exhausted(
            f"no space left while unpacking {where}", hint="free space, or collect unused images"
        )
    if error.errno in (errno.EMLINK, errno.E2BIG, errno.EFBIG):
        return Exhausted(f"the file system cannot hold {where}: {error.strerror}")
    if error.errno == errno.ENAMETOOLONG:  # names are checked before; XFS keeps links of up to 1023 bytes
        return Unsupported(
            f"the file system cannot hold {where}: {error.strerror}",
            hint="use --backend erofs, or put the root directory on ext4 or btrfs",
        )
    if error.errno in (errno.ELOOP, errno.EINVAL):
        return Corrupt(f"layer: {where} cannot be unpacked: {error.strerror}")
    if error.errno == errno.EOPNOTSUPP:
        return Unsupported(
            f"the file system cannot hold the attributes of {where}",
            hint="use --backend erofs, or put the root directory on ext4, xfs or btrfs"
            " (tmpfs keeps them from Linux 6.6 on)",
        )
    return error
