"""A tree of the container's own, copied from the layers: works everywhere, and costs what it copies (BK-4).

File data is shared with the layer where the file system can (FICLONE: xfs, btrfs), else copied by the kernel.
Layer trees hold whatever an image put there, so everything goes by descriptors and no last component is
followed.  A directory of the host (``dir:``) may change meanwhile, by whoever owns it, and have mounts in it:
what was opened is looked at once more, and of mounts nothing is copied, as an overlay shows none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from mesocosm.errors import InvalidConfig, Unavailable, Unsupported
from mesocosm.images.backends.base import Backend, StackedLayer
from mesocosm.images.layered import is_whiteout
from mesocosm.images.layers.store import Form
from mesocosm.images.owners import Owners
from mesocosm.linux import beneath, mounts
from mesocosm.linux.holes import data_runs
from mesocosm.linux.mountinfo import mounts_below, read_mountinfo
from mesocosm.model.idmap import IDMap
from mesocosm.plan import RootStep
from mesocosm.plan.operations import BindRoot

COPY: Final = "root"
"""The directory below a container's ``scratch``."""
FICLONE: Final = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
OPAQUE: Final = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # in case that it has become a FIFO
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNSHARED = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ETXTBSY)
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE)
_PIECE = 1 << 30

_Result = TypeVar("_Result")


class CopyBackend(Backend):
    """The root is ``scratch/root``."""

    name = "copy"
    form = Form.TREE

    def probe(self) -> None:
        """Every Linux can."""

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """As `Backend.root`: copies every layer, lowest first, the upper ones' whiteouts applied.

        A copy is written once and is nobody else's, so its files get the mapped owners at once: that costs
        nothing, and works on every file system.  InvalidConfig for an owner that the mapping lacks.
        """
        owners = Owners(idmap)
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = scratch / COPY
        if target.exists():
            _remove(scratch, target.name)
        target.mkdir(mode=0o755)
        if idmap is not None and idmap.owner is not None:
            os.chown(target, *idmap.owner)
        for layer in reversed(layers):
            copy_layer(layer.content, target, owners)
        return self.preview(layers, scratch, read_only=read_only, idmap=idmap)

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """As `Backend.preview`.  A read-only root is made so after its mounts, as for every backend."""
        del layers, read_only, idmap
        return BindRoot(source=str(scratch / COPY), read_only=False)


def copy_layer(source: Path, target: Path, owners: Owners | None = None) -> None:
    """Put the layer tree ``source`` over the tree ``target``; blocking.

    Raises OSError, Unsupported where ``target`` cannot have what the layer has, and Unavailable when
    somebody else changes ``source`` meanwhile.
    """
    target_fd = os.open(target, _DIRECTORY)
    try:
        source_fd = _without_mounts(source)
        try:
            _Copy(source_fd, target_fd, owners or Owners()).run()
        except OSError as error:
            if error.errno not in _CHANGED:
                raise
            raise _changed(source) from error
        finally:
            os.close(source_fd)
    finally:
        os.close(target_fd)


def _without_mounts(source: Path) -> int:
    """The tree itself: what lies below the mounts in it, if there are any."""
    inside = (entry.mount_point != str(source) for entry in mounts_below(read_mountinfo(), str(source)))
    return mounts.clone_tree(str(source), recursive=False) if any(inside) else os.open(source, _DIRECTORY)


def _changed(source: Path) -> Unavailable:
    return Unavailable(
        f"{source} changed while it was copied",
        hint="try again when nothing writes to it; --backend overlay copies nothing",
    )


class _Copy:
    """The copy of one layer.  Holds two directories open at a time, however deep the layer is."""

    def __init__(self, source: int, target: int, owners: Owners) -> None:
        self._source = source
        self._target = target
        self._whole = os.fstat(target)
        self._owners = owners
        self._linked: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def run(self) -> None:
        """Copy everything; directories get their look and times last, innermost first."""
        done = []
        pending = [b"."]
        while pending:
            path = pending.pop()
            done.append(path)
            pending += self._with_both(path, self._fill)
        for path in reversed(done):
            self._with_both(path, self._dress_directory)

    def _with_both(self, path: bytes, act: Callable[[bytes, int, int], _Result]) -> _Result:
        inner = beneath.open_beneath(self._source, path, _DIRECTORY)
        try:
            outer = beneath.open_beneath(self._target, path, _DIRECTORY)
            try:
                return act(path, inner, outer)
            finally:
                os.close(outer)
        finally:
            os.close(inner)

    def _fill(self, path: bytes, source: int, target: int) -> list[bytes]:
        """Copy what a directory holds; returns the directories in it, made but still empty."""
        below = []
        for name in sorted(os.fsencode(entry) for entry in os.listdir(source)):
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._require_other(status)
                _make_directory(source, target, name)
                below.append(path + b"/" + name)
                continue
            beneath.remove_tree(target, name)
            if not is_whiteout(status):
                self._copy(path, source, target, name, status)
        return below

    def _require_other(self, status: os.stat_result) -> None:
        """A directory of the host may hold the copy itself, by a way that its path does not tell."""
        if os.path.samestat(status, self._whole):
            raise InvalidConfig("the directory holds the place that it is to be copied to")

    def _copy(self, path: bytes, source: int, target: int, name: bytes, status: os.stat_result) -> None:
        file = status.st_dev, status.st_ino
        known = self._linked.get(file)
        if known is not None:
            self._link(known, target, name)
            return
        if status.st_nlink > 1:
            self._linked[file] = (path, name)
        if stat.S_ISREG(status.st_mode):
            _copy_file(source, target, name, self._owners)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
            beneath.make_node(target, name, kind, mode, status.st_rdev)
        os.chown(name, *self._owners.of(status), dir_fd=target, follow_symlinks=False)
        os.utime(name, ns=_times(status), dir_fd=target, follow_symlinks=False)

    def _dress_directory(self, path: bytes, source: int, target: int) -> None:
        del path
        _dress(source, target, os.fstat(source), self._owners)

    def _link(self, known: tuple[bytes, bytes], target: int, name: bytes) -> None:
        parent = beneath.open_beneath(self._target, known[0], _DIRECTORY)
        try:
            os.link(known[1], name, src_dir_fd=parent, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(parent)


def _make_directory(source: int, target: int, name: bytes) -> None:
    """Have a directory to copy into: a lower layer's, or a new one where that is hidden or is none."""
    if not _is_directory(target, name) or _is_opaque(source, name):
        beneath.remove_tree(target, name)
        os.mkdir(name, 0o700, dir_fd=target)


def _is_directory(parent: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _is_opaque(parent: int, name: bytes) -> bool:
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise
    finally:
        os.close(fd)


def _copy_file(source: int, target: int, name: bytes, owners: Owners) -> None:
    """Mode and owner are those of the file that was opened: its name may have become another's."""
    inner = os.open(name, _READ, dir_fd=source)
    try:
        status = os.fstat(inner)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "it was a file a moment ago")
        outer = os.open(name, _CREATE, 0o600, dir_fd=target)
        try:
            _copy_data(inner, outer, status.st_size)
            _dress(inner, outer, status, owners)
        finally:
            os.close(outer)
    finally:
        os.close(inner)


def _copy_data(source: int, target: int, size: int) -> None:
    """Share the file's data, else copy its extents; holes stay holes."""
    try:
        fcntl.ioctl(target, FICLONE, source)
        return
    except OSError as error:
        if error.errno not in _UNSHARED:
            raise
    os.ftruncate(target, size)
    for start, end in data_runs(source, size):
        _copy_extent(source, target, start, end)


def _copy_extent(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        done = _copy_piece(source, target, start, min(end - start, _PIECE))
        if not done:
            raise OSError(errno.ESTALE, "a file became shorter while it was copied")
        start += done


def _copy_piece(source: int, target: int, start: int, length: int) -> int:
    """Copy within the kernel; how many bytes.  copy_file_range(2) is for one file system (EXDEV)."""
    try:
        return os.copy_file_range(source, target, length, start, start)
    except OSError as error:
        if error.errno not in _UNSHARED:
            raise
    os.lseek(target, start, os.SEEK_SET)
    return os.sendfile(target, source, start, length)


def _dress(source: int, target: int, status: os.stat_result, owners: Owners) -> None:
    """Owner before mode and attributes: chown(2) takes set-id bits and capabilities away.

    A directory that a lower layer made loses the attributes it had: those of the topmost layer hold.
    """
    os.fchown(target, *owners.of(status))
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    wanted = [name for name in os.listxattr(source) if not name.startswith("trusted.overlay.")]
    for name in os.listxattr(target):
        if name.startswith("user.") and name not in wanted:
            os.removexattr(target, name)
    for name in wanted:
        _set_attribute(target, name, owners.attribute(name, os.getxattr(source, name)))
    os.utime(target, ns=_times(status))


def _set_attribute(target: int, name: str, value: bytes) -> None:
    try:
        os.setxattr(target, name, value)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        place = os.readlink(f"/proc/self/fd/{target}")  # noqa: PTH115
        raise Unsupported(
            f"{place} cannot have the attribute {name} that it has in the image: its file system keeps none",
            hint="use ext4, xfs or btrfs there (tmpfs keeps them from Linux 6.6 on), or another --backend",
        ) from error


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_mtime_ns


def _remove(parent: Path, name: str) -> None:
    fd = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        beneath.remove_tree(fd, name)
    finally:
        os.close(fd)
