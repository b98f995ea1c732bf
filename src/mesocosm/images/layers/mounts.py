"""The one mount of each EROFS layer on this host, at ``<runtime>/layers/<diff ID's hex>``.

A merge of layers (layers/merging.py) is one too, under the chain ID.

A layer is mounted once however many containers use it: a second superblock of the same file would cache its
pages once more (measured: a whole further copy for each).  The mounts belong to nobody's process, survive the
agent, and are found again by looking.  A lock file beside the directory is held while they are looked at or
changed, so that whoever holds a lease on a layer and has seen it mounted keeps it.

A layer that was seen mounted is not looked at again until the mount table has changed, whoever changed it: a
further container of a known image costs the same for any number of layers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mesocosm import durable, trace
from mesocosm.errors import Denied, Unsupported
from mesocosm.linux import loop, mounts, syscalls
from mesocosm.linux.mount_watch import MountWatch

_ATTRIBUTES = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NODEV

Files = Sequence[Path]
"""An EROFS file, then the files that it refers to, in its order."""

MountImage = Callable[[Files], int]
"""Makes a detached mount of an EROFS image."""


def mount_image(files: Files) -> int:
    """Return a detached mount of an EROFS image; Unsupported where this host cannot, Denied to who may not.

    From the files themselves where kernel (Linux 6.12) and file system can, else through loop devices.
    """
    try:
        try:
            return mount_files(files)
        except OSError as error:
            if error.errno != errno.ENOTBLK:
                raise
        return mount_by_loop(files)
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise Unsupported("this kernel has no EROFS", hint="use --backend overlay") from error
        if error.errno == errno.EPERM:
            raise not_permitted() from error
        raise


def takes_devices() -> bool:
    """Whether this kernel mounts EROFS images that refer to further files, as merges do (Linux 5.16).

    Nothing is mounted.  Denied to who may not.
    """
    try:
        return mounts.takes_option("erofs", "device")
    except OSError as error:
        if error.errno == errno.EPERM:
            raise not_permitted() from error
        if error.errno == errno.ENODEV:
            return False
        raise


def not_permitted() -> Denied:
    """What mount(2) and its kin answer with EPERM, in words: it says nothing of what the host can."""
    return Denied("mounting is not permitted here", hint="run as root, with CAP_SYS_ADMIN")


def mount_files(files: Files) -> int:
    """Mount from the files.  They are opened here: the kernel takes no option longer than 255 bytes."""
    with contextlib.ExitStack() as stack:
        held = [f"/proc/self/fd/{_opened(path, stack)}" for path in files]
        return mounts.erofs(held[0], devices=held[1:], attributes=_ATTRIBUTES)


def mount_by_loop(files: Files) -> int:
    """Mount through loop devices, which go back by themselves with the mount."""
    with contextlib.ExitStack() as stack:
        devices = []
        for path in files:
            file = _opened(path, stack)
            try:
                device, source = loop.attach(file)
            except OSError as error:
                raise Unsupported(
                    f"EROFS files cannot be mounted here: no loop device, {error.strerror}",
                    hint="modprobe loop, run Linux 6.12 or later, or use --backend overlay",
                ) from error
            stack.callback(os.close, device)
            devices.append(source)
        options = [("ro", None), *(("device", device) for device in devices[1:])]
        return mounts.new_mount("erofs", options, source=devices[0], attributes=_ATTRIBUTES)


def _opened(path: Path, stack: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    stack.callback(os.close, fd)
    return fd


class LayerMounts:
    """The mounts of layers below one runtime directory."""

    def __init__(self, root: Path, mount: MountImage = mount_image) -> None:
        self._root = root
        self._lock = root.with_name(f"{root.name}.lock")
        self._mount = mount
        self._watch = MountWatch()
        self._seen: set[str] = set()
        self._looking = threading.Lock()

    def close(self) -> None:
        """Watch no longer; mounts stay."""
        self._watch.close()

    def hold(self, images: Mapping[str, Files]) -> dict[str, Path]:
        """Have every layer mounted, and return where; blocking.

        ``images`` are EROFS files by diff ID's hex, a merge's by chain ID's.  The caller holds a lease on
        them.
        """
        with self._held(), self._looking:
            if self._watch.changed():
                self._seen.clear()
            new = [name for name in images if name not in self._seen]
            if new:
                device = self._device()
                for name in new:
                    self._hold(name, images[name], device)
                self._seen.update(new)
        return {name: self._root / name for name in images}

    def where(self, name: str) -> Path:
        """Return where a layer is mounted, or would be."""
        return self._root / name

    def has(self, name: str) -> bool:
        """Whether a layer is mounted now; it stays so for who holds a lease on it."""
        return self._is_mounted(self._root / name)

    def mounted(self) -> list[str]:
        """Return the hex diff IDs of the layers mounted now."""
        try:
            names = os.listdir(self._root)  # noqa: PTH208
        except FileNotFoundError:
            return []
        return sorted(name for name in names if self._is_mounted(self._root / name))

    def drop(self, names: Iterable[str]) -> None:
        """Unmount layers whoever needs them, so that the next container mounts them anew; blocking."""
        with self._held():
            for name in names:
                if self._is_mounted(self._root / name):
                    mounts.detach(str(self._root / name))

    def trim(self, needed: Callable[[], frozenset[str]]) -> list[str]:
        """Unmount the layers that nobody needs, and return them; blocking.

        ``needed`` answers with hex diff IDs and is asked under the lock.  Containers that still run on such a
        layer keep it: their own mounts hold the file system.
        """
        if not self._root.exists():
            return []
        with self._held():
            keep = needed()
            dropped = [name for name in self.mounted() if name not in keep]
            for name in dropped:
                mounts.detach(str(self._root / name))
            for name in os.listdir(self._root):  # noqa: PTH208
                if name not in keep:
                    with contextlib.suppress(OSError):
                        (self._root / name).rmdir()
            return dropped

    def _device(self) -> int:
        """The directory's own file system; the directory is made where it is not there."""
        try:
            return os.stat(self._root).st_dev  # noqa: PTH116
        except FileNotFoundError:
            self._root.mkdir(mode=0o700)
            return os.stat(self._root).st_dev  # noqa: PTH116

    def _hold(self, name: str, image: Files, device: int) -> None:
        where = f"{self._root}/{name}"
        try:
            if os.stat(where).st_dev != device:  # noqa: PTH116
                return
        except FileNotFoundError:
            os.mkdir(where, 0o700)  # noqa: PTH102
        trace.point("mounts.made")
        detached = self._mount(image)
        try:
            mounts.attach_at(detached, where)
        finally:
            os.close(detached)
        trace.point("mounts.mounted")

    def _is_mounted(self, where: Path) -> bool:
        """Whether a layer lies on ``where``: it is another file system than the directory's own."""
        try:
            return os.stat(where).st_dev != os.stat(self._root).st_dev  # noqa: PTH116
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        if not os.path.isdir(self._root.parent):  # noqa: PTH112
            self._root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with durable.locked(self._lock):
            yield
