"""Steps that assemble and enter a root file system.

A root is mounted detached, attached where nobody can see it, and held as a descriptor; everything else is
resolved beneath that descriptor until `enter_root` makes it ``/``.
"""

from __future__ import annotations

import errno
import os
import stat

from mesocosm.launch import mount_points, owners
from mesocosm.launch.assembly import assembled, with_layers
from mesocosm.linux import beneath, mounts, syscalls
from mesocosm.linux.syscalls import AT_FDCWD, AT_RECURSIVE, MNT_DETACH, MS_SLAVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mesocosm.launch.assembly import Layers
    from mesocosm.launch.setup import Setup

    Step = dict[str, Any]

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def cut_propagation(setup: Setup, step: Step) -> None:
    """``/`` and all below becomes a slave: host mounts may come in, none of ours goes out (R-28)."""
    del step
    setup.require("mnt")
    setup.hold_shared_sources()
    owners.make_mappings(setup)
    syscalls.mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, propagation=MS_SLAVE)


def overlay_root(setup: Setup, step: Step) -> None:
    """An overlay of the layers, writable with ``upper`` and ``work``."""
    setup.require("mnt")
    if step["upper"] is None:
        with_layers(setup, step, lambda layers: _hold(setup, _read_only_overlay(setup, step, layers)))
    else:
        _hold(setup, assembled(setup, step))


def _read_only_overlay(setup: Setup, step: Step, layers: Layers) -> int:
    """An overlay that nothing can be written to, with the mount points that the plan needs."""
    aside = step["layers"][0]
    view = mounts.overlay(layers, aside=aside)
    missing = mount_points.missing(setup.steps, view)
    if not missing:
        return view
    try:
        points = mount_points.layer(setup, missing, view)
    finally:
        os.close(view)
    try:
        return mounts.overlay([points, *layers], aside=aside)
    finally:
        os.close(points)


def bind_root(setup: Setup, step: Step) -> None:
    """A directory of the host as a mount of its own, with what is mounted below it."""
    setup.require("mnt")
    _hold(setup, assembled(setup, step))


def host_root(setup: Setup, step: Step) -> None:
    """The host's own root, copy-on-write, and each of ``submounts`` likewise."""
    setup.require("mnt")
    places = ["/", *sorted(step["submounts"])]
    covers = {place: _cover(place) for place in places}
    for path in sorted((*step["hidden"], *step["emptied"])):
        place = _home_of(path, places)
        _put(covers[place], place, path, _whiteout if path in step["hidden"] else _emptied)
    for place in places:
        fd = _view_of_host(setup, step, place, covers[place])
        if place == "/":
            _hold(setup, fd)
        else:
            _attach_below(setup, fd, place)


def _home_of(path: str, places: list[str]) -> str:
    """The mount among ``places`` that ``path`` lies in; a mount point itself lies in the one above it."""
    inside = [place for place in places if path.startswith(place.rstrip("/") + "/") and path != place]
    return max(inside, key=len)


def _view_of_host(setup: Setup, step: Step, place: str, cover: int) -> int:
    """A writable overlay of one host mount.

    The kernel refuses an upper directory inside the tree of its own lower layer (ELOOP).  A read-only overlay
    in between is another tree, so it is the lower layer.  Overlays nest two deep; where the host's own root
    is one already, the changes go to memory, which goes with the old root.
    """
    idmap = step["idmap"]
    lower = os.open(place, _DIRECTORY) if idmap is None else owners.clone(setup, place, idmap)
    owners.map_new(setup, cover, "memory", idmap)
    changes, work = (_own_directory(step[key], place, os.fstat(lower)) for key in ("upper", "work"))
    try:
        view = mounts.overlay([cover, lower], aside=work)
        return mounts.overlay([view], upper=changes, work=work, options=[("volatile", None)])
    except OSError as error:
        if error.errno != errno.EINVAL or not _is_overlay(lower):
            raise
    memory = mounts.tmpfs(source="changes")
    mounts.attach(memory, work)  # before Linux 6.15 no part of an overlay may be outside of our namespace
    for name in ("upper", "work"):
        os.mkdir(name, 0o755, dir_fd=memory)
    setup.warn(f"{place} is an overlay already: changes to it are kept in memory, not on disk")
    upper, work = (os.open(name, _DIRECTORY, dir_fd=memory) for name in ("upper", "work"))
    return mounts.overlay([cover, lower], upper=upper, work=work)


def _is_overlay(fd: int) -> bool:
    return syscalls.filesystem_type(fd) == mounts.OVERLAYFS_SUPER_MAGIC


def _own_directory(parent: str, place: str, like: os.stat_result) -> int:
    """The directory for one mount beneath ``parent``, made like the mount's own root directory."""
    path = f"{parent}/{place.replace('%', '%25').replace('/', '%2F')}"
    try:  # noqa: SIM105  (contextlib is not for the launch side)
        os.mkdir(path, 0o755)  # noqa: PTH102
    except FileExistsError:
        pass
    fd = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    _imitate(fd, like)
    return fd


def _cover(place: str) -> int:
    """A layer in memory to lie over a host mount.

    A layer above decides the mode and owner of a directory too, so those on the way are made alike.
    """
    layer = mounts.tmpfs(source="hidden", mode=0o755)
    _imitate(layer, os.stat(place))  # noqa: PTH116
    return layer


def _put(layer: int, place: str, path: str, make: Callable[[int, str, str], None]) -> None:
    prefix = place.rstrip("/")
    *above, name = path[len(prefix) :].strip("/").split("/")
    parent, here = os.dup(layer), prefix
    try:
        os.lstat(path)
        for part in above:
            here = f"{here}/{part}"
            child = _same_directory(parent, part, here)
            os.close(parent)
            parent = child
        make(parent, name, path)
    except (FileNotFoundError, NotADirectoryError, FileExistsError):
        return  # it is not there, or hidden with what lies above it
    finally:
        os.close(parent)


def _whiteout(parent: int, name: str, path: str) -> None:
    """Say that it does not exist (overlayfs.rst: a character device 0:0)."""
    del path
    os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)


def _emptied(parent: int, name: str, path: str) -> None:
    """Show a directory without what is in it (overlayfs.rst: opaque); a link there is hidden instead."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        _whiteout(parent, name, path)
        return
    fd = _same_directory(parent, name, path)
    try:
        os.setxattr(f"/proc/self/fd/{fd}", "trusted.overlay.opaque", b"y")
    finally:
        os.close(fd)


def _same_directory(parent: int, name: str, original: str) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    _imitate(fd, os.lstat(original))
    return fd


def _imitate(fd: int, original: os.stat_result) -> None:
    syscalls.set_owner(fd, original.st_uid, original.st_gid)
    syscalls.set_mode(fd, stat.S_IMODE(original.st_mode))


def _hold(setup: Setup, fd: int) -> None:
    """Attach a root over ``/``, out of reach of every path, so that mounts can be moved beneath it."""
    top = os.open("/", _DIRECTORY)
    mounts.attach(fd, top)
    os.close(top)
    mounts.set_propagation(fd, "private")
    setup.hold_root(fd)


def _attach_below(setup: Setup, fd: int, place: str) -> None:
    target = beneath.open_in_root(setup.root, place, _DIRECTORY)
    mounts.attach(fd, target)
    os.close(target)
    os.close(fd)


def enter_root(setup: Setup, step: Step) -> None:
    """pivot_root(2) into the held root and let the old one go."""
    del step
    setup.require("mnt")
    setup.bind_everything()
    os.fchdir(setup.root)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", MNT_DETACH)
    os.chdir("/")
