"""Overlay file systems, by whichever of the kernel's interfaces there is; the kernel's overlayfs.rst.

Layers reach the kernel as descriptors (Linux 6.13), as ``/proc/self/fd/N`` one by one (6.8), else as numbers
in one option string of mount(2), so that no character of a path means anything (attack I-15).
"""

from __future__ import annotations

import errno
import os

from mesocosm.linux import syscalls
from mesocosm.linux.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    CLONE_FS,
    MNT_DETACH,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    StrOrBytes = str | bytes
    Option = tuple[str, StrOrBytes | int | None]

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_FIXED: tuple[tuple[str, str], ...] = (
    ("redirect_dir", "nofollow"),
    ("metacopy", "off"),
    ("index", "off"),
    ("nfs_export", "off"),
    ("xino", "auto"),
)
"""What the host's module parameters would decide otherwise, differently on each host (all since Linux 4.19).

An upper layer that outlives its container, or a ready-made one, may come with ``trusted.overlay.redirect`` or
``metacopy`` in it, which would show a directory or file from elsewhere in the lower layers, whatever hides it
there: neither is made nor followed, and such a name cannot be opened (EPERM; kernels like 6.1 show an empty
directory where the mark leads to nothing).  ``index`` would tie an upper layer to the file system that it was
made on.

``xino`` puts the number of a layer's file system into the highest bits of st_ino, where these leave room: so
all files have one device, and numbers that stay when a file is copied up, as POSIX has it.  "off" would take
both away from every program, for the sake of those of 32 bits that were built without large file support:
their stat(2) and getdents(2) answer EOVERFLOW to a number beyond 32 bits (fs/stat.c, cp_compat_stat), while
stat64(2) and getdents64(2), all that musl, Go and most distributions use, have 64.  Nothing is put in where
all layers are of one file system: the way for such programs is layers that are directories.
"""


def overlay(
    lowers: Sequence[int | StrOrBytes],
    *,
    upper: int | StrOrBytes | None = None,
    work: int | StrOrBytes | None = None,
    options: Iterable[Option] = (),
    attributes: int = 0,
    aside: int | StrOrBytes | None = None,
) -> int:
    """A detached overlay of directories, paths or descriptors, topmost first; read-only without ``upper`` and
    ``work``.

    Detached mounts are layers too.  ``options`` beyond the fixed ones: see overlayfs.rst;
    ``("volatile", None)`` never syncs the upper layer.  A single layer without ``upper`` is EINVAL to the
    kernel: clone it instead.  Before Linux 6.8, and 6.15 with detached layers, a directory is mounted upon
    for a moment: ``aside``, else one of those given.
    """
    held: list[int] = []
    try:
        layers = [_hold(layer, held) for layer in lowers]
        writable = [
            (name, _hold(place, held))
            for name, place in (("upperdir", upper), ("workdir", work))
            if place is not None
        ]
        candidates = [fd for _, fd in reversed(writable)] + list(reversed(layers))
        if aside is not None:
            candidates.insert(0, _hold(aside, held))
        return _Overlay(layers, writable, [*_FIXED, *options], attributes, candidates).make()
    finally:
        for fd in held:
            os.close(fd)


def escape_option(text: str) -> str:
    """``text`` as one value in an overlay option string of mount(2): ``\\``, ``,`` and ``:`` get a
    backslash.
    """
    return text.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


class _NoAppend(Exception):
    """The kernel cannot add lower layers one by one (before Linux 6.8)."""


def _hold(place: int | StrOrBytes, held: list[int]) -> int:
    if isinstance(place, int):
        return place
    held.append(os.open(place, _DIRECTORY))
    return held[-1]


class _Overlay:
    """One overlay to be made; ``candidates`` are directories to mount upon where that is needed."""

    takes_detached = False
    """Whether this kernel has been seen to take layers that are detached mounts (Linux 6.15)."""

    def __init__(
        self,
        layers: Sequence[int],
        writable: Sequence[tuple[str, int]],
        options: Sequence[Option],
        attributes: int,
        candidates: Sequence[int],
    ) -> None:
        self._layers = layers
        self._writable = writable
        self._options = options
        self._attributes = attributes
        self._candidates = candidates

    def make(self) -> int:
        """By the newest interface that the kernel has."""
        outside = [] if _Overlay.takes_detached else _detached(self._layers)
        try:
            # A failure after the upper layer was taken leaves a mark there that "volatile" never mounts on
            # again: what may fail is tried on read-only overlays alone.
            if outside and self._writable:
                return self._with_attached(outside, self._by_layer)
            made = self._by_layer()
            _Overlay.takes_detached |= bool(outside)
            return made
        except _NoAppend:
            return self._with_attached(outside, self._by_option_string)
        except OSError as error:
            if error.errno != errno.EINVAL or not outside or self._writable:
                raise
        return self._with_attached(outside, self._by_layer)

    def _with_attached(self, outside: Sequence[int], make: Callable[[], int]) -> int:
        if not outside:
            return make()
        with _Attached(outside, _path_of_any(self._candidates)):
            return make()

    def _by_layer(self) -> int:
        context = syscalls.fsopen("overlay")
        try:
            syscalls.fsconfig_set_string(context, "source", "overlay")
            for index, layer in enumerate(self._layers):
                try:
                    _set_place(context, "lowerdir+", layer)
                except OSError as error:
                    # EOPNOTSUPP: before Linux 6.5, when overlayfs did not know of this interface yet.
                    if index == 0 and error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                        raise _NoAppend from None
                    raise
            for name, place in self._writable:
                _set_place(context, name, place)
            for name, value in self._options:
                if value is None:
                    syscalls.fsconfig_set_flag(context, name)
                else:
                    syscalls.fsconfig_set_string(context, name, _text(value))
            syscalls.fsconfig_create(context)
            return syscalls.fsmount(context, self._attributes)
        finally:
            os.close(context)

    def _by_option_string(self) -> int:
        """mount(2) upon a directory for a moment, then take the mount off and keep it detached.

        The option string has one page, and the kernel cuts off silently what is beyond.  That is room for the
        500 layers that overlayfs takes, by names as short as these.
        """
        words = ["lowerdir=" + ":".join(map(str, self._layers))]
        words += [f"{name}={fd}" for name, fd in self._writable]
        for name, value in self._options:
            words.append(name if value is None else f"{name}={escape_option(_text(value))}")
        place = _path_of_any(self._candidates)
        with _AmongDescriptors():
            syscalls.mount("overlay", place, "overlay", 0, ",".join(words))
        try:
            made = syscalls.open_tree(AT_FDCWD, place, OPEN_TREE_CLONE)
        finally:
            syscalls.umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW)
        if self._attributes:
            syscalls.mount_setattr(made, "", AT_EMPTY_PATH, attr_set=self._attributes)
        return made


def _set_place(context: int, key: str, fd: int) -> None:
    try:
        syscalls.fsconfig_set_fd(context, key, fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
        syscalls.fsconfig_set_string(context, key, f"/proc/self/fd/{fd}")


def _detached(layers: Sequence[int]) -> list[int]:
    """The layers that are roots of mounts outside of any namespace: their path is ``/``, and they are not."""
    found = [fd for fd in layers if os.readlink(f"/proc/self/fd/{fd}") == "/"]  # noqa: PTH115
    if not found:
        return []
    top = os.open("/", _DIRECTORY)
    try:
        ours = syscalls.mount_id(top)
    finally:
        os.close(top)
    return [fd for fd in found if syscalls.mount_id(fd) != ours]


class _AmongDescriptors:
    """The calling thread works in ``/proc/self/fd``, where the path of a descriptor is its number.

    Other threads stay where they are: the thread has a working directory of its own from then on
    (CLONE_FS, unshare(2)).
    """

    def __enter__(self) -> None:
        syscalls.unshare(CLONE_FS)
        self._before = os.open(".", _DIRECTORY)
        try:
            os.chdir("/proc/self/fd")
        except BaseException:
            os.close(self._before)
            raise

    def __exit__(self, *exception: object) -> None:
        try:
            os.fchdir(self._before)
        finally:
            os.close(self._before)


class _Attached:
    """Detached mounts, attached upon ``place`` for a moment, each over the one before.

    Afterwards each descriptor holds a clone, detached again: what has been taken off cannot be used any more.
    """

    def __init__(self, mounts: Sequence[int], place: str) -> None:
        self._mounts = mounts
        self._place = place
        self._done: list[int] = []

    def __enter__(self) -> None:
        try:
            for fd in self._mounts:
                self._attach(fd)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exception: object) -> None:
        while self._done:
            fd = self._done.pop()
            clone = syscalls.open_tree(fd, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)
            try:
                syscalls.umount2(self._place, MNT_DETACH | UMOUNT_NOFOLLOW)
                os.dup2(clone, fd, inheritable=False)
            finally:
                os.close(clone)

    def _attach(self, fd: int) -> None:
        target = os.open(self._place, _DIRECTORY)
        try:
            syscalls.move_mount(fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
        finally:
            os.close(target)
        self._done.append(fd)


def _path_of_any(directories: Sequence[int]) -> str:
    """A path that leads to one of ``directories``; the root of a detached mount has none.

    ``/`` is no such path: a path that begins there never enters what is mounted upon it.
    """
    for fd in directories:
        path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        try:
            found = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            same = syscalls.mount_id(found) == syscalls.mount_id(fd) and os.path.sameopenfile(found, fd)
        finally:
            os.close(found)
        if same and path != "/":
            return path
    raise OSError(errno.EOPNOTSUPP, "this kernel needs one overlay layer that is reachable by a path")


def _text(value: StrOrBytes | int) -> str:
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)
