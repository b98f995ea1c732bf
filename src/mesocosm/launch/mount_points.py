"""What the mounts of a plan need and an image does not have, for roots that take no changes.

A read-only overlay takes no new names.  So those that the plan's steps would make are made in a directory in
memory, which lies on top of the layers.  It only ever adds: a name is made where the image has none, links
are followed as the container would, and a directory on the way looks as the image's own does.  Whatever
stands in the way stays, and is reported by the step that it is in the way of.
"""

from __future__ import annotations

import errno
import os
import stat

from mesocosm.launch import image_mounts
from mesocosm.linux import beneath, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mesocosm.launch.setup import Setup

    Step = dict[str, Any]

    Make = Callable[[int, bytes], None]

_COVERING = frozenset({"mount", "bind", "mount-image"})
_NAMING = _COVERING | {"directory", "symlink", "device"}
"""Steps that make a name where there is none.  A device's is a file's here, for the host's node to lie on."""

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = ("security.", "system.posix_acl_")
"""Attributes without which a directory would admit others; overlayfs copies those or nothing, too."""


def missing(steps: list[Step], view: int) -> list[int]:
    """Return the indices of steps that want a name which the root ``view`` does not have.

    What lies below the target of an earlier mount is that mount's affair.
    """
    covered: list[str] = []
    found = []
    for index, step in enumerate(steps):
        if step["op"] not in _NAMING or step["target"].startswith(tuple(covered)):
            continue
        if not _is_there(view, step["target"], follow=step["op"] != "symlink"):
            found.append(index)
        if step["op"] in _COVERING:
            covered.append(step["target"].rstrip("/") + "/")
    return found


def _is_there(view: int, path: str, *, follow: bool) -> bool:
    """Whether there is something; where the look itself fails the step will fail likewise."""
    try:
        os.close(beneath.open_in_root(view, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW)))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def layer(setup: Setup, missing: list[int], view: int) -> int:
    """Return a directory in memory with the names that steps want, by index, and the root ``view`` lacks."""
    root = os.fstat(view)
    mode = stat.S_IMODE(root.st_mode)
    made = mounts.tmpfs(source="mount-points", mode=mode, uid=root.st_uid, gid=root.st_gid)
    try:
        points = _Points(made, view, (root.st_uid, root.st_gid))
        for index in missing:
            step = setup.steps[index]
            points.add(step, _maker(setup, index, step))
    except BaseException:
        os.close(made)
        raise
    return made


class _Points:
    """The names in ``made`` that ``view`` has not.  New ones belong to ``owner``, who has the root too: with
    mapped owners that is not the host's.
    """

    def __init__(self, made: int, view: int, owner: tuple[int, int]) -> None:
        self._made = made
        self._view = view
        self._owner = owner

    def add(self, step: Step, last: Make | None) -> None:
        """Make what a step wants, the last name by ``last``.  What cannot be, for a file that stands in the
        way or the like, the step says itself.
        """
        if last is None:
            return
        above = _directory(_mode(step))
        names = beneath.components(os.fsencode(step["target"]))
        for _ in range(beneath.LINK_BUDGET):
            try:
                there, absent, onwards = _look(self._view, names)
            except OSError:
                return
            passed = absent[: absent.index(b"..")] if b".." in absent else absent
            if passed:
                self._make(there, passed, above, above if onwards else last)
            if not onwards:
                return
            names = onwards

    def _make(self, there: list[bytes], absent: list[bytes], above: Make, last: Make) -> None:
        """Make ``absent`` in the directory ``there``.  A link that an earlier step made is never followed."""
        try:
            for count in range(1, len(there) + 1):
                self._imitate(b"/".join(there[:count]))
            for count in range(1, len(absent) + 1):
                self._put(b"/".join(there + absent[:count]), last if count == len(absent) else above)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise

    def _put(self, path: bytes, make: Make) -> bool:
        """Make the last name of a path; whether it was not there."""
        above, _, name = path.rpartition(b"/")
        parent = beneath.open_beneath(self._made, above or b".", os.O_PATH | os.O_DIRECTORY)
        try:
            make(parent, name)
            if self._owner != (0, 0):
                os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            return False
        finally:
            os.close(parent)
        return True

    def _imitate(self, path: bytes) -> None:
        """Have a directory like the one in the view: owner, mode, attributes."""
        if not self._put(path, _directory(0o700)):
            return
        original = beneath.open_beneath(self._view, path, _READ)
        try:
            copy = beneath.open_beneath(self._made, path, _READ)
            try:
                _dress(copy, original)
            finally:
                os.close(copy)
        finally:
            os.close(original)


def _look(view: int, names: list[bytes]) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """How far a path leads: names of the directory it ends in, without links; what is not there; and where
    to go on then, if anywhere.
    """
    parent, count = beneath.deepest(view, names)
    try:
        there, absent = beneath.components(_path_in(parent)), names[count:]
        link = _link(parent, absent[0]) if absent else None
        if link is None:
            return there, absent, _reckoned(there + absent) if b".." in absent else []
        above = [] if link.startswith(b"/") else there
        return there, [], above + beneath.components(link) + absent[1:]
    finally:
        os.close(parent)


def _path_in(directory: int) -> bytes:
    """The path of a held directory from the root of its mount, which is attached nowhere."""
    return os.fsencode(os.readlink(f"/proc/self/fd/{directory}"))  # noqa: PTH115


def _link(parent: int, name: bytes) -> bytes | None:
    """Where a name leads that leads to no directory; None when it is not there."""
    try:
        return os.readlink(name, dir_fd=parent)
    except FileNotFoundError:
        return None


def _reckoned(names: list[bytes]) -> list[bytes]:
    """The names without ``..``: none of them is a link."""
    found: list[bytes] = []
    for name in names:
        if name == b"..":
            del found[-1:]
        else:
            found.append(name)
    return found


def _mode(step: Step) -> int:
    """That of the directories a step makes."""
    mode: int = step["mode"] if step["op"] == "directory" else step.get("target_mode", 0o755)
    return mode


def _maker(setup: Setup, index: int, step: Step) -> Make | None:
    """How the last name of a step is made; None for a source that is not there."""
    op = step["op"]
    if op == "symlink":
        return lambda parent, name: os.symlink(step["points_to"], name, dir_fd=parent)
    if op == "device":
        return _file
    try:
        return _directory(_mode(step)) if _is_directory(setup, index, step) else _file
    except OSError:
        if op == "bind":
            return None
        raise


def _is_directory(setup: Setup, index: int, step: Step) -> bool:
    if step["op"] == "mount-image":
        return image_mounts.is_directory(setup, index, step)
    return step["op"] != "bind" or stat.S_ISDIR(os.stat(step["source"]).st_mode)  # noqa: PTH116


def _directory(mode: int) -> Make:
    def make(parent: int, name: bytes) -> None:
        os.mkdir(name, 0o700, dir_fd=parent)
        os.chmod(name, mode, dir_fd=parent)

    return make


def _file(parent: int, name: bytes) -> None:
    os.close(os.open(name, _NEW, 0o644, dir_fd=parent))


def _dress(copy: int, original: int) -> None:
    status = os.fstat(original)
    os.fchown(copy, status.st_uid, status.st_gid)
    os.fchmod(copy, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(original):
        try:
            os.setxattr(copy, name, os.getxattr(original, name))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or name.startswith(_KEPT):
                raise
