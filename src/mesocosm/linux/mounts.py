"""Mounts made detached, given their attributes, and only then moved onto a target held as a descriptor.

Each function named after a filesystem returns a descriptor of a mount that nobody else can see; closing it
unmounts it. No path is resolved twice, so there is no race to win (attacks R-05, R-06).  Attributes are the
MOUNT_ATTR_* bits of mount_setattr(2), named in `ATTRIBUTES`.  Errors are ``OSError`` with what the filesystem
itself had to say.

A mount's ``source`` only shows in mountinfo.
"""

from __future__ import annotations

import errno
import os

from mesocosm.linux import syscalls
from mesocosm.linux.mountinfo import MountEntry as MountEntry
from mesocosm.linux.mountinfo import mounts_below as mounts_below
from mesocosm.linux.mountinfo import parse_mountinfo as parse_mountinfo
from mesocosm.linux.mountinfo import read_mountinfo as read_mountinfo
from mesocosm.linux.overlay import escape_option as escape_option
from mesocosm.linux.overlay import overlay as overlay
from mesocosm.linux.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MNT_DETACH,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    StrOrBytes = str | bytes
    Option = tuple[str, StrOrBytes | int | None]

ATTRIBUTES = {
    "ro": MOUNT_ATTR_RDONLY,
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC,
    "noatime": MOUNT_ATTR_NOATIME,
    "strictatime": MOUNT_ATTR_STRICTATIME,
    "relatime": MOUNT_ATTR_RELATIME,
    "nodiratime": MOUNT_ATTR_NODIRATIME,
    "nosymfollow": MOUNT_ATTR_NOSYMFOLLOW,
}
"""mount(8)'s word to MOUNT_ATTR_* bits."""

PROPAGATION = {"shared": MS_SHARED, "slave": MS_SLAVE, "private": MS_PRIVATE, "unbindable": MS_UNBINDABLE}
"""Propagation types of mount_namespaces(7)."""

SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC

PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
CGROUP2_SUPER_MAGIC = 0x63677270
NSFS_MAGIC = 0x6E736673
DEVPTS_SUPER_MAGIC = 0x1CD1
TMPFS_MAGIC = 0x01021994
OVERLAYFS_SUPER_MAGIC = 0x794C7630


# --- new filesystems ----------------------------------------------------------------------------------------


def new_mount(
    filesystem: str, options: Iterable[Option] = (), *, source: StrOrBytes = "", attributes: int = 0
) -> int:
    """A detached mount of ``filesystem``.

    An option is ``(name, value)``: text or a number is set as it is, without any escaping, None is a flag.
    """
    context = syscalls.fsopen(filesystem)
    try:
        syscalls.fsconfig_set_string(context, "source", source or filesystem)
        _set_options(context, options)
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, attributes)
    finally:
        os.close(context)


def takes_option(filesystem: str, name: str) -> bool:
    """Whether the kernel's file system knows an option that has a value; nothing is mounted.

    OSError, ENODEV, where the kernel does not have the file system.
    """
    context = syscalls.fsopen(filesystem)
    try:
        syscalls.fsconfig_set_string(context, name, name)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        os.close(context)
    return True


def _set_options(context: int, options: Iterable[Option]) -> None:
    for name, value in options:
        if value is None:
            syscalls.fsconfig_set_flag(context, name)
        else:
            syscalls.fsconfig_set_string(context, name, str(value) if isinstance(value, int) else value)


def tmpfs(
    *,
    size: int | None = None,
    mode: int = 0o755,
    inodes: int | None = None,
    uid: int = 0,
    gid: int = 0,
    source: str = "tmpfs",
    attributes: int = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
) -> int:
    """A tmpfs of at most ``size`` bytes, its root with this mode and owner, tmpfs(5).  None: half the
    memory.
    """
    options: list[Option] = [("mode", f"{mode:o}"), ("uid", uid), ("gid", gid)]
    if size is not None:
        options.append(("size", size))
    if inodes is not None:
        options.append(("nr_inodes", inodes))
    return new_mount("tmpfs", options, source=source, attributes=attributes)


def proc(*, subset: str | None = None, hidepid: str | None = None, attributes: int = SAFE) -> int:
    """A procfs of the calling process' PID namespace, proc(5); ``subset`` "pid", ``hidepid`` "ptraceable"
    ...
    """
    chosen: list[Option] = [("subset", subset), ("hidepid", hidepid)]
    return new_mount("proc", [o for o in chosen if o[1] is not None], attributes=attributes)


def sysfs(*, attributes: int = SAFE | MOUNT_ATTR_RDONLY) -> int:
    """A sysfs of the calling process' network namespace, sysfs(5)."""
    return new_mount("sysfs", attributes=attributes)


def devpts(
    *, mode: int = 0o620, ptmxmode: int = 0o666, gid: int | None = 5, maximum: int | None = None
) -> int:
    """A devpts instance of its own, every mount being one since Linux 4.7 (attack R-26)."""
    options: list[Option] = [("newinstance", None), ("mode", f"{mode:o}"), ("ptmxmode", f"{ptmxmode:o}")]
    if gid is not None:
        options.append(("gid", gid))
    if maximum is not None:
        options.append(("max", maximum))
    return new_mount("devpts", options, attributes=MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)


def mqueue(*, attributes: int = SAFE) -> int:
    """The POSIX message queues of the calling process' IPC namespace, mq_overview(7)."""
    return new_mount("mqueue", attributes=attributes)


def cgroup2(*, attributes: int = SAFE | MOUNT_ATTR_RDONLY, options: Iterable[Option] = ()) -> int:
    """The unified hierarchy from the root of the calling process' cgroup namespace, cgroups(7)."""
    return new_mount("cgroup2", options, source="cgroup", attributes=attributes)


def cgroup1(controllers: Sequence[str], *, attributes: int = SAFE | MOUNT_ATTR_RDONLY) -> int:
    """A v1 hierarchy from the root of the cgroup namespace: controllers, or ``["none", "name=x"]``."""
    options: list[Option] = []
    for controller in controllers:
        name, equals, value = controller.partition("=")
        options.append((name, value if equals else None))
    return new_mount("cgroup", options, source="cgroup", attributes=attributes)


def erofs(
    image: int | StrOrBytes,
    *,
    devices: Iterable[StrOrBytes] = (),
    directio: bool = True,
    attributes: int = MOUNT_ATTR_RDONLY,
) -> int:
    """A read-only EROFS image, a path or a descriptor, mounted from the file itself (Linux 6.12).

    ``devices`` are the files that it refers to, in the order of its device table.  ``directio`` keeps the
    images' pages from being cached twice; it is left out where the kernel refuses it.
    ENOTBLK: this kernel mounts block devices only.
    """
    source = f"/proc/self/fd/{image}" if isinstance(image, int) else image
    options: list[Option] = [("device", device) for device in devices]
    if directio:
        direct: list[Option] = [("directio", None), *options]
        try:
            return new_mount("erofs", direct, source=source, attributes=attributes)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    return new_mount("erofs", options, source=source, attributes=attributes)


# --- the tree -----------------------------------------------------------------------------------------------


def clone_tree(place: int | StrOrBytes, *, recursive: bool = True) -> int:
    """A detached bind mount of a directory or file, with everything mounted below it when ``recursive``.

    A path is followed to its end; hold hostile ones with `beneath.open_in_root` and give the descriptor.
    """
    flags = OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0)
    if isinstance(place, int):
        return syscalls.open_tree(place, "", flags | AT_EMPTY_PATH)
    return syscalls.open_tree(AT_FDCWD, place, flags)


def set_attributes(
    mount_fd: int, attributes: int, *, clear: int = 0, recursive: bool = False, userns_fd: int | None = None
) -> None:
    """Set, and ``clear``, MOUNT_ATTR_* bits of a mount; ``userns_fd`` maps its owners by a user namespace.

    An access-time mode in ``attributes`` replaces the one in force, which the kernel wants to be told.
    """
    if attributes & MOUNT_ATTR__ATIME:
        clear |= MOUNT_ATTR__ATIME
    if userns_fd is not None:
        attributes |= syscalls.MOUNT_ATTR_IDMAP
    syscalls.mount_setattr(
        mount_fd,
        "",
        AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0),
        attr_set=attributes,
        attr_clr=clear,
        userns_fd=userns_fd or 0,
    )


def set_propagation(place: int | StrOrBytes, kind: str, *, recursive: bool = True) -> None:
    """Make a mount, held or by path, "shared", "slave", "private" or "unbindable" (attack R-28)."""
    flags = AT_RECURSIVE if recursive else 0
    if isinstance(place, int):
        syscalls.mount_setattr(place, "", flags | AT_EMPTY_PATH, propagation=PROPAGATION[kind])
    else:
        syscalls.mount_setattr(AT_FDCWD, place, flags, propagation=PROPAGATION[kind])


def attach(mount_fd: int, target_fd: int) -> None:
    """Move a detached mount onto what ``target_fd`` holds: a directory on a directory, a file on a file.

    EINVAL for a target that was opened in another mount namespace: each has its own mounts.
    """
    syscalls.move_mount(mount_fd, "", target_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def attach_at(mount_fd: int, path: StrOrBytes) -> None:
    """Move a detached mount onto a path of our own, of which no part is anybody else's; a last link is not
    followed.
    """
    syscalls.move_mount(mount_fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH)


def detach(path: StrOrBytes) -> None:
    """Take off the topmost mount at ``path`` with all below it, whether busy or not; a last link is not
    followed.
    """
    syscalls.umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW)


def is_procfs(fd: int) -> bool:
    """Whether ``fd`` lies on a procfs and not on something that only looks like it (attacks R-07, R-08)."""
    return syscalls.filesystem_type(fd) == PROC_SUPER_MAGIC


def is_sysfs(fd: int) -> bool:
    """Whether ``fd`` lies on a sysfs (attack R-07)."""
    return syscalls.filesystem_type(fd) == SYSFS_MAGIC
