"""Steps that show images, and parts of them, beneath the held root."""

from __future__ import annotations

import errno
import os
import stat

from mesocosm.launch import filesystems
from mesocosm.launch.assembly import assembled
from mesocosm.linux import beneath, mounts, syscalls
from mesocosm.linux.syscalls import MNT_DETACH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mesocosm.launch.setup import Setup

    Step = dict[str, Any]


def mount_image(setup: Setup, step: Step) -> None:
    """An image, or a part of it, at ``target``."""
    setup.require("mnt")
    fd = setup.kept_source(setup.index)
    if fd is None:
        fd = _detached(setup, step)
    mounts.set_attributes(fd, filesystems.attributes(step["flags"]))
    mounts.set_propagation(fd, "private")
    filesystems.show(setup, fd, step["target"])


def is_directory(setup: Setup, index: int, step: Step) -> bool:
    """Whether what the step at ``index`` shows is a directory; what it takes to know is kept for the step."""
    if not step["subpath"]:
        return True
    root, setup.index = setup.index, index  # what fails is the step's failure
    fd = _detached(setup, step)
    setup.keep_source(index, fd)
    setup.index = root
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _detached(setup: Setup, step: Step) -> int:
    whole = assembled(setup, step["root"])
    return _part(whole, step["subpath"]) if step["subpath"] else whole


def _part(whole: int, subpath: str) -> int:
    """A detached mount of what ``subpath`` is with the image as root (R-05), in place of ``whole``.

    Before Linux 6.15 only what is attached can be cloned: it lies upon ``/`` for a moment, out of reach of
    every path.
    """
    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.attach(whole, top)
    os.close(top)
    try:
        place = beneath.open_in_root(whole, subpath, os.O_PATH | os.O_CLOEXEC)
        part = mounts.clone_tree(place, recursive=False)
        os.close(place)
        return part
    finally:
        os.fchdir(whole)
        syscalls.umount2(".", MNT_DETACH)
        os.chdir("/")
        os.close(whole)


def keep_writable(setup: Setup, step: Step) -> None:
    """A directory of the root on itself.  What an image declares is no reason not to start."""
    setup.require("mnt")
    target = step["target"]
    try:
        place = beneath.make_directories(setup.root, target)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EROFS):
            raise
        setup.warn(f"the image's volume {target} is left out: {error.strerror}")
        return
    if syscalls.mount_id(place) == syscalls.mount_id(setup.root):
        fd = mounts.clone_tree(place, recursive=False)
        mounts.set_propagation(fd, "private")
        mounts.attach(fd, place)
        os.close(fd)
    os.close(place)
