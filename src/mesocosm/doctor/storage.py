"""The two roots: what they lie on, and whether images can become root file systems there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mesocosm.doctor import owners
from mesocosm.doctor.finding import Finding, missing, ok, tried, warning
from mesocosm.errors import Unsupported
from mesocosm.images.backends import PREFERENCE
from mesocosm.images.backends.base import Backend, BackendContext
from mesocosm.images.backends.choice import BackendChoice
from mesocosm.images.backends.erofs import ErofsBackend, trial_layer
from mesocosm.images.backends.overlay import OverlayBackend
from mesocosm.images.image import DEEP
from mesocosm.images.layers.mounts import LayerMounts, mount_files, takes_devices
from mesocosm.isolators.words import size
from mesocosm.linux import syscalls
from mesocosm.linux.mountinfo import read_mountinfo
from mesocosm.paths import Paths

ROOM = 1 << 30  # bytes that images and containers need to begin with
FILES = 10_000  # inodes, less than a small image's tree has


def examine(paths: Paths) -> Iterator[Finding]:
    """Both directories, and each way to make a root, tried where it would be used."""
    yield _runtime(paths.runtime)
    yield _state(paths.root)
    yield from _backends(paths)


def _standing(path: Path) -> Path:
    """The path itself, or what it would be made in."""
    while not path.is_dir():
        path = path.parent
    return path


def _filesystem(path: Path) -> str:
    """The type of the file system that a directory lies on."""
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        number = syscalls.mount_id(handle)
    finally:
        os.close(handle)
    return next((entry.filesystem for entry in read_mountinfo() if entry.mount_id == number), "unknown")


def _runtime(path: Path) -> Finding:
    kind = _filesystem(_standing(path))
    if kind == "tmpfs":
        return ok("runtime directory", f"{path} on tmpfs")
    return warning(
        "runtime directory",
        f"{path} on {kind}: each change of a container goes to a disk, and files survive a reboot",
        "mount a tmpfs there, or give --runtime a directory on one",
    )


def _state(path: Path) -> Finding:
    place = _standing(path)
    if not os.access(place, os.W_OK):
        return missing("state directory", f"{place} is not writable", "run as root, or give --root another")
    kind, free = _filesystem(place), os.statvfs(place)
    if not free.f_blocks:
        return ok("state directory", f"{path} on {kind}, which does not tell its size")
    room = free.f_bavail * free.f_frsize
    message = f"{path} on {kind}, {size(room)} free"
    if room < ROOM or (free.f_files and free.f_favail < FILES):
        entries = f" and {free.f_favail} files" if free.f_files else ""
        return warning(
            "state directory", f"{message}{entries}: too little for most images", "make room there"
        )
    return ok("state directory", message)


def _backends(paths: Paths) -> Iterator[Finding]:
    # Each has a directory of its own: a work directory that a volatile overlay had serves no other one.
    layers = LayerMounts(paths.layers)
    with _trial_directory(paths.root) as trial:
        overlay = tried(
            "overlay",
            OverlayBackend(BackendContext(mounts=layers, trial=trial, top=trial / "top")).probe,
            good="roots are layers with a writable one on top",
            without=f"roots have to be copied below {paths.root}",
            fix="put the state directory on ext4, xfs, btrfs or tmpfs; modprobe overlay",
            required=False,
        )
        yield overlay
    with _trial_directory(paths.root) as trial:
        erofs = _erofs(ErofsBackend(BackendContext(mounts=layers, trial=trial, top=trial / "top")))
        yield erofs
        if erofs.status == "ok":
            by_file = _file_mounts(trial)
            yield by_file
            if by_file.status == "ok":
                yield _direct_reads(trial)
            yield _merges()
    able = {"erofs": erofs.status == "ok", "overlay": overlay.status == "ok", "copy": True}
    yield _backend(paths, layers, next(name for name in PREFERENCE if able[name]))
    with _trial_directory(paths.root) as trial:
        yield from owners.examine(trial)


def _erofs(backend: Backend) -> Finding:
    return tried(
        "erofs files",
        backend.probe,
        good="layers are single files, mounted once for all containers",
        without="layers are unpacked to directories instead",
        fix="run Linux 6.12 or later with CONFIG_EROFS_FS_BACKED_BY_FILE; modprobe erofs",
        required=False,
    )


def _file_mounts(trial: Path) -> Finding:
    """Whether layers need loop devices: `mount_image` takes them only where this fails."""

    def mount() -> None:
        try:
            os.close(trial_layer(trial, mount_files))
        except OSError as error:
            if error.errno != errno.ENOTBLK:
                raise
            raise Unsupported("this kernel mounts no files of this file system") from error

    return tried(
        "erofs mounts",
        mount,
        good="from the files themselves",
        without="through a loop device for each layer",
        fix="run Linux 6.12 or later with CONFIG_EROFS_FS_BACKED_BY_FILE; put the state directory on ext4, "
        "xfs or btrfs",
        required=False,
    )


def _backend(paths: Paths, layers: LayerMounts, able: str) -> Finding:
    """What makes roots where nobody says ``--backend``: what was found at the first use since boot, else what
    would be found now.
    """
    found = BackendChoice(paths, layers).remembered()
    if found is None or found == able:
        return ok("backend", f"{able} makes roots: the first of {', '.join(PREFERENCE)} that works here")
    return warning(
        "backend",
        f"{found} makes roots, as was found since boot; by now it would be {able}",
        f"remove {paths.runtime / 'backend.json'}: it is found anew",
    )


def _direct_reads(trial: Path) -> Finding:
    """What the kernel does for a mount with ``directio``: it takes the option, and asks the file's system."""

    def read() -> None:
        context = syscalls.fsopen("erofs")
        try:
            syscalls.fsconfig_set_flag(context, "directio")
        finally:
            os.close(context)
        file = trial / "direct"
        file.touch()
        os.close(os.open(file, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))

    return tried(
        "erofs reads",
        read,
        good="past the page cache below: one copy of a layer's pages in memory",
        without="through the page cache below: a layer's pages are in memory twice",
        fix="run Linux 6.13 or later; put the state directory on ext4, xfs or btrfs",
        required=False,
    )


def _merges() -> Finding:
    def ask() -> None:
        if not takes_devices():
            raise Unsupported("this kernel mounts no EROFS image of several files")

    return tried(
        "erofs merges",
        ask,
        good=f"an image of more than {DEEP} layers is mounted as one",
        without=f"each layer of an image is mounted by itself, also of more than {DEEP}",
        fix="run Linux 5.16 or later",
        required=False,
    )


@contextlib.contextmanager
def _trial_directory(root: Path) -> Iterator[Path]:
    """A directory on the file system that images will be on, for a moment."""
    place = _standing(root)
    if not os.access(place, os.W_OK):
        place = Path(tempfile.gettempdir())
    trial = Path(tempfile.mkdtemp(prefix=".mesocosm-doctor-", dir=place))
    try:
        yield trial
    finally:
        shutil.rmtree(trial, ignore_errors=True)
