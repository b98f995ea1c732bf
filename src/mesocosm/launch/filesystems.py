"""Steps that fill the held root: mounts, devices, links, hidden and read-only paths.

Each target is resolved once beneath the held root, by the kernel, and what is made lands on that descriptor
(attacks R-05, R-06, R-13, R-14).
"""

from __future__ import annotations

import errno
import os
import stat

from mesocosm.launch import owners
from mesocosm.linux import beneath, mounts, syscalls
from mesocosm.linux.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mesocosm.launch.setup import Setup

    Step = dict[str, Any]

_DIRECTORY = os.O_PATH | os.O_DIRECTORY

COVERABLE = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "slabinfo",
        "stat",
        "swaps",
        "uptime",
        "net/dev",
        "sys/kernel/ns_last_pid",
    )
)
"""What anybody may cover in /proc: files that only inform (R-07)."""

_KERNEL_VIEWS = (mounts.PROC_SUPER_MAGIC, mounts.SYSFS_MAGIC)


def mount_filesystem(setup: Setup, step: Step) -> None:
    """A new file system, its attributes set before anybody can see it."""
    setup.require("mnt")
    fstype, target = step["fstype"], step["target"]
    fd = _detached(fstype, step["options"], step["flags"])
    place = _mount_point(setup, fstype, target, step["target_mode"])
    if not step["trusted"]:
        _check_cover(setup, fd, place, target)
    mounts.attach(fd, place)
    os.close(place)
    os.close(fd)


def _mount_point(setup: Setup, fstype: str, target: str, mode: int) -> int:
    """Where to mount.  Masks and sysctls rely on /proc and /sys, so no link may lead elsewhere (R-07)."""
    place = beneath.make_directories(setup.root, target, mode)
    if fstype in ("proc", "sysfs"):
        os.close(place)
        relative = target.strip("/") or "."
        try:
            return syscalls.openat2(
                setup.root, relative, _DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
            )
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ELOOP, "the image has a symbolic link there", target) from None
            raise
    return place


def _detached(fstype: str, options: Sequence[str], flags: Sequence[str]) -> int:
    """A new file system that nobody can see yet."""
    chosen = [_option(text) for text in options]
    return mounts.new_mount(fstype, chosen, attributes=attributes(flags))


def _option(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    return name, value if equals else None


def attributes(flags: Sequence[str]) -> int:
    """mount(8)'s words as MOUNT_ATTR_* bits."""
    result = 0
    for flag in flags:
        if flag not in mounts.ATTRIBUTES:
            raise OSError(errno.EINVAL, f"unknown mount flag {flag}")
        result |= mounts.ATTRIBUTES[flag]
    return result


def bind_mount(setup: Setup, step: Step) -> None:
    """A file or directory of the host at ``target``."""
    setup.require("mnt")
    source, target = step["source"], step["target"]
    fd = setup.kept_source(setup.index)
    if fd is None:
        fd = owners.clone(setup, source, step["idmap"], recursive=step["recursive"])
    asked = attributes(step["flags"])
    if asked:
        mounts.set_attributes(fd, asked, recursive=step["recursive"])
    if step["propagation"] != "shared":
        mounts.set_propagation(fd, step["propagation"], recursive=step["recursive"])
    show(setup, fd, target, trusted=step["trusted"])


def show(setup: Setup, fd: int, target: str, *, trusted: bool = False) -> None:
    """Attach a detached mount at ``target``, made as the same kind if missing, and close ``fd``."""
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        place = beneath.make_directories(setup.root, target)
    else:
        place = beneath.make_file(setup.root, target)
        if stat.S_ISDIR(os.fstat(place).st_mode):
            raise OSError(errno.EISDIR, "a file cannot lie on the directory that the image has there", target)
    if not trusted:
        _check_cover(setup, fd, place, target)
    mounts.attach(fd, place)
    os.close(place)
    os.close(fd)


def _check_cover(setup: Setup, fd: int, place: int, target: str) -> None:
    covered = syscalls.filesystem_type(place)
    if covered in _KERNEL_VIEWS and target not in COVERABLE and syscalls.filesystem_type(fd) != covered:
        raise OSError(errno.EPERM, "the kernel's own view may not be covered", target)
    here, root = os.fstat(place), os.fstat(setup.root)
    if (here.st_dev, here.st_ino) == (root.st_dev, root.st_ino):
        raise OSError(errno.EINVAL, "the root itself cannot be covered", target)


def make_directory(setup: Setup, step: Step) -> None:
    """A directory, and those above it."""
    os.close(beneath.make_directories(setup.root, step["target"], step["mode"]))


def make_symlink(setup: Setup, step: Step) -> None:
    """A symbolic link; an existing entry of that name stays."""
    try:
        beneath.make_symlink(setup.root, step["points_to"], step["target"])
    except FileExistsError:
        return


def make_device(setup: Setup, step: Step) -> None:
    """A device node, or where that is refused or nothing can be made the host's own of the same number."""
    target, number = step["target"], os.makedev(step["major"], step["minor"])
    kind = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}[step["kind"]]
    above, _, name = target.rstrip("/").rpartition("/")
    parent = beneath.make_directories(setup.root, above or "/")
    try:
        _replace_node(parent, name, kind | step["mode"], number)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise
        _show_host_node(setup, step, kind, number)
    finally:
        os.close(parent)


def _replace_node(parent: int, name: str, mode: int, number: int) -> None:
    """Make the node with exactly this mode: a child's file mode mask is 0 while it sets up."""
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "not a file name", name)
    try:
        os.mknod(name, mode, number, dir_fd=parent)
    except FileExistsError:
        os.unlink(name, dir_fd=parent)
        os.mknod(name, mode, number, dir_fd=parent)


def _show_host_node(setup: Setup, step: Step, kind: int, number: int) -> None:
    fd = _host_node(step["target"], kind, number)
    place = beneath.make_file(setup.root, step["target"])
    node = mounts.clone_tree(fd, recursive=False)
    mounts.attach(node, place)
    for each in (fd, place, node):
        os.close(each)


def _host_node(path: str, kind: int, number: int) -> int:
    """The host's device node at ``path``, held, and checked to be that device and no other (R-09)."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if stat.S_IFMT(status.st_mode) != kind or status.st_rdev != number:
        os.close(fd)
        raise OSError(errno.ENODEV, "the host has another device there", path)
    return fd


def _present(setup: Setup, step: Step) -> int | None:
    """The path that a step names, held; None where nothing is there.  Mounts are about to change on it."""
    setup.require("mnt")
    try:
        return beneath.open_in_root(setup.root, step["target"], os.O_PATH)
    except FileNotFoundError:
        return None


def mask_path(setup: Setup, step: Step) -> None:
    """Hide a path; absent is fine."""
    place = _present(setup, step)
    if place is None:
        return
    directory = stat.S_ISDIR(os.fstat(place).st_mode)
    first = setup.covers.get(directory)
    if first is None:
        cover = setup.covers[directory] = _empty_directory() if directory else _null_cover()
        mounts.attach(cover, place)
    else:
        # Before Linux 6.15 only an attached mount can be cloned; all covers share one file system.
        cover = mounts.clone_tree(first, recursive=False)
        mounts.attach(cover, place)
        os.close(cover)
    os.close(place)


def _empty_directory() -> int:
    attributes = mounts.SAFE | mounts.ATTRIBUTES["ro"]
    return mounts.tmpfs(size=0, inodes=2, mode=0o755, source="mesocosm-empty", attributes=attributes)


def _null_cover() -> int:
    null = _host_node("/dev/null", stat.S_IFCHR, os.makedev(1, 3))
    try:
        fd = mounts.clone_tree(null, recursive=False)
    finally:
        os.close(null)
    mounts.set_attributes(fd, attributes(["ro", "nosuid", "noexec"]))
    return fd


def read_only_path(setup: Setup, step: Step) -> None:
    """Make a path read-only with everything mounted beneath; absent is fine."""
    place = _present(setup, step)
    if place is None:
        return
    fd = mounts.clone_tree(place)
    mounts.set_attributes(fd, mounts.ATTRIBUTES["ro"], recursive=True)
    mounts.attach(fd, place)
    os.close(fd)
    os.close(place)


def read_only_mount(setup: Setup, step: Step) -> None:
    """Make the mount on a path read-only, and none of those below it; one that is none (EINVAL) is fine."""
    place = _present(setup, step)
    if place is None:
        return
    try:
        mounts.set_attributes(place, mounts.ATTRIBUTES["ro"])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(place)


def read_only_root(setup: Setup, step: Step) -> None:
    """Make the root mount read-only, and none of those below it."""
    del step
    setup.require("mnt")
    mounts.set_attributes(setup.root, mounts.ATTRIBUTES["ro"])
