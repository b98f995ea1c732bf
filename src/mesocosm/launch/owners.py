"""Owners of files, mapped: what a plan's ``idmap`` does.

A layer, a directory or a volume is cloned, and the clone alone is given the mapping (mount_setattr(2),
MOUNT_ATTR_IDMAP): the mount that it comes from belongs to all containers and stays as it is, and so does what
lies on the disk.
"""

from __future__ import annotations

import errno
import os

from mesocosm.launch import signals
from mesocosm.linux import mounts, syscalls, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mesocosm.launch.setup import Setup

    Step = dict[str, Any]
    Map = dict[str, list[dict[str, int]]]

_KEEP_CAPABILITIES = 1 << 2
"""SECBIT_NO_SETUID_FIXUP of capabilities(7): a change of file system IDs takes no capabilities away."""


def make_mappings(setup: Setup) -> None:
    """Have each mapping of the plan as a user namespace, before a root is held.

    From then on our root directory is not the topmost one any more, and user_namespaces(7) refuses a process
    in a chroot(2) a namespace of its own.
    """
    images = [step["root"] for step in setup.steps if step["op"] == "mount-image"]
    for step in (*setup.steps, *images):
        idmap = step.get("root", step).get("idmap")  # an image that is mounted is assembled like a root
        if idmap is not None and _key(idmap) not in setup.mappings:
            try:
                setup.mappings[_key(idmap)] = userns.make(*_key(idmap))
            except OSError as error:
                raise OSError(
                    error.errno, f"no user namespace for a mapping of IDs: {error.strerror}", error.filename
                ) from None


def clone(setup: Setup, place: int | str, idmap: Map | None, *, recursive: bool = False) -> int:
    """A detached mount of ``place`` as by `mounts.clone_tree`, its owners mapped when there is a mapping."""
    fd = mounts.clone_tree(place, recursive=recursive)
    if idmap is not None:
        _map(setup, fd, place, idmap, recursive=recursive)
    return fd


def map_new(setup: Setup, fd: int, what: str, idmap: Map | None) -> None:
    """Give a detached mount of our own the mapping; ``what`` it is, for words."""
    if idmap is not None:
        _map(setup, fd, what, idmap, recursive=False)


def make_files_as(setup: Setup, step: Step) -> None:
    """Files are made as this user and group until identities are taken; all capabilities stay."""
    del setup
    before = syscalls.get_securebits()
    syscalls.set_securebits(before | _KEEP_CAPABILITIES)
    syscalls.set_file_ids(step["uid"], step["gid"])
    syscalls.set_securebits(before)
    syscalls.set_pdeathsig(signals.SIGKILL)  # a change of IDs forgets it


def _map(setup: Setup, fd: int, place: int | str, idmap: Map, *, recursive: bool) -> None:
    try:
        mounts.set_attributes(fd, 0, recursive=recursive, userns_fd=setup.mappings[_key(idmap)])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        below = ", or one mounted below it," if recursive else ""
        where = os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else place  # noqa: PTH115
        raise OSError(
            errno.EOPNOTSUPP, f"the file system{below} has no id-mapped mounts ({_kind(fd)})", where
        ) from None


def _key(idmap: Map) -> tuple[str, str]:
    return _text(idmap["uids"]), _text(idmap["gids"])


def _text(ranges: list[dict[str, int]]) -> str:
    return "".join(f"{one['container']} {one['host']} {one['length']}\n" for one in ranges)


def _kind(fd: int) -> str:
    """The type of a file system, in mountinfo's word where it has one for its device."""
    if syscalls.filesystem_type(fd) == mounts.TMPFS_MAGIC:  # ours are nowhere in the table
        return "tmpfs"
    status = os.fstat(fd)
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    for entry in mounts.read_mountinfo():
        if entry.device == device:
            return entry.filesystem
    return f"type {syscalls.filesystem_type(fd):#x}"
