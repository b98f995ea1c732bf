"""Paths below a root that is held as a descriptor, resolved by the kernel and by nobody else.

What lies below the root belongs to an image or a container and is hostile: links that lead out, loops, FIFOs
and devices where files are expected, components swapped between two calls.  Hence nothing here joins strings
and opens the result.  Every look-up is one openat2(2) against the root, everything made is made relative to a
held directory, and whatever a race puts in between, the outcome lies below the root (attacks R-05, R-06,
R-20, P-07).

Failures are ``OSError`` with the path as it was asked for.
"""

from __future__ import annotations

import errno
import os
import stat

from mesocosm.linux.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    as_bytes,
    openat2,
    set_mode,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    StrOrBytes = str | bytes

LINK_BUDGET = 40
"""Dangling links followed while making one path; the kernel's own limit for a look-up (path_resolution(7)).
"""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY


def open_in_root(root_fd: int, path: StrOrBytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` as a process with ``root_fd`` as its root directory would.

    Absolute links and ``..`` stay inside, magic links (``/proc/PID/root``, ``fd/N``) are ELOOP.
    """
    return openat2(root_fd, path, flags, mode, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_beneath(dirfd: int, path: StrOrBytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` in a tree of our own, where no link belongs: a link is ELOOP, leaving the tree EXDEV."""
    return openat2(dirfd, path, flags, mode, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)


def make_directories(root_fd: int, path: StrOrBytes, mode: int = 0o755) -> int:
    """Make what is missing of a directory path and return an O_PATH descriptor of its end.

    Links inside the root are followed as the container would, dangling ones too: their target is made.  New
    directories get exactly ``mode``, whatever the umask.  ENOTDIR when a component is something else, ELOOP
    after `LINK_BUDGET` dangling links.
    """
    return _make_directories(root_fd, as_bytes(path), mode, LINK_BUDGET)


def make_file(root_fd: int, path: StrOrBytes, mode: int = 0o644, directory_mode: int = 0o755) -> int:
    """An O_PATH descriptor of ``path``, made as an empty file, directories included, when it is missing.

    What is there already is returned untouched, of whatever type, after links: a place to mount a file on.
    """
    return _make_file(root_fd, as_bytes(path), mode, directory_mode, LINK_BUDGET)


def make_symlink(root_fd: int, target: StrOrBytes, path: StrOrBytes) -> None:
    """Make a symbolic link, and the directories to it.  EEXIST when something is at ``path``."""
    parent, name = _open_parent(root_fd, as_bytes(path), 0o755, LINK_BUDGET)
    try:
        os.symlink(as_bytes(target), name, dir_fd=parent)
    finally:
        os.close(parent)


def make_node(dirfd: int, name: StrOrBytes, kind: int, mode: int, device: int = 0) -> None:
    """Make a device node, FIFO or socket ``name`` directly in the held directory, with exactly ``mode``.

    ``kind`` is one of ``stat.S_IFCHR``, ``S_IFBLK``, ``S_IFIFO``, ``S_IFSOCK``; ``device`` from
    ``os.makedev``. EEXIST when something is there (attacks R-11, R-13).
    """
    name = _plain_name(name)
    os.mknod(name, kind | mode, device, dir_fd=dirfd)
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        set_mode(fd, mode)
    finally:
        os.close(fd)


def write_file(root_fd: int, path: StrOrBytes, content: bytes, mode: int = 0o644) -> None:
    """Put a regular file at ``path``, in place of whatever file or link is there; directories are made.

    The last component is replaced, never followed: a link there does not choose what is written to (N-08).
    """
    parent, name = _open_parent(root_fd, as_bytes(path), 0o755, LINK_BUDGET)
    try:
        _replace(parent, name, content, mode)
    finally:
        os.close(parent)


def read_file(root_fd: int, path: StrOrBytes, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes, as the container sees it (attack R-20).

    Anything but a regular file is refused with EINVAL before it is opened for reading, a larger one with
    EFBIG.
    """
    look = open_in_root(root_fd, path, os.O_PATH)
    try:
        _require_regular(look, path)
    finally:
        os.close(look)
    fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _require_regular(fd, path)  # the name may mean another file by now
        return _read_all(fd, path, limit)
    finally:
        os.close(fd)


def remove_tree(dirfd: int, name: StrOrBytes) -> None:
    """Remove ``name`` in the held directory and everything below it; no error when it is not there.

    Links are removed, never followed, and mounts, bind mounts of the same filesystem included, are never
    entered (attack P-07): what hides behind one stays, the rest goes, and EXDEV or EBUSY tells of it at the
    end.
    """
    name = _plain_name(name)
    try:
        _unlink_or_descend(dirfd, name)
    except FileNotFoundError:
        return


# --- making -------------------------------------------------------------------------------------------------


def _plain_name(name: StrOrBytes) -> bytes:
    raw = as_bytes(name)
    if b"/" in raw or raw in (b"", b".", b".."):
        raise OSError(errno.EINVAL, "not a plain file name", name)
    return raw


def components(path: bytes) -> list[bytes]:
    """The names that a path is made of; ``..`` is one."""
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def _make_directories(root_fd: int, path: bytes, mode: int, budget: int) -> int:
    names = components(path)
    parent, there = deepest(root_fd, names)
    done = b"".join(b"/" + name for name in names[:there])
    for name in names[there:]:
        try:
            child = _enter_or_make(root_fd, done, parent, name, mode, budget)
        finally:
            os.close(parent)
        parent = child
        done += b"/" + name
    return parent


def deepest(root_fd: int, names: list[bytes]) -> tuple[int, int]:
    """The directory at the longest beginning of a path that leads to one, held; how many names that is."""
    for there in range(len(names), 0, -1):
        try:
            return open_in_root(root_fd, b"/".join(names[:there]), _DIRECTORY), there
        except FileNotFoundError:
            continue
    return open_in_root(root_fd, b".", _DIRECTORY), 0


def _enter_or_make(root_fd: int, done: bytes, parent: int, name: bytes, mode: int, budget: int) -> int:
    """Open ``name`` in the directory ``done``, which ``parent`` holds, or make it there."""
    here = done + b"/" + name
    try:
        return open_in_root(root_fd, here, _DIRECTORY)
    except FileNotFoundError:
        pass
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        return _follow_dangling(root_fd, done, parent, name, mode, budget)
    fd = openat2(parent, name, _DIRECTORY | os.O_NOFOLLOW, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    set_mode(fd, mode)
    return fd


def _follow_dangling(root_fd: int, done: bytes, parent: int, name: bytes, mode: int, budget: int) -> int:
    if not budget:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(done + b"/" + name))
    return _make_directories(root_fd, _link_target(done, parent, name), mode, budget - 1)


def _link_target(done: bytes, parent: int, name: bytes) -> bytes:
    """Where the link ``name`` leads, as a path from the root.

    EINVAL of readlinkat means that the name is no link: it was made by somebody else a moment ago.
    """
    try:
        target = os.readlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        target = name
    return target if target.startswith(b"/") else done + b"/" + target


def _split(path: bytes) -> tuple[bytes, bytes]:
    names = components(path)
    if not names or names[-1] == b"..":
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
    return b"/".join(names[:-1]), names[-1]


def _open_parent(root_fd: int, path: bytes, mode: int, budget: int) -> tuple[int, bytes]:
    above, name = _split(path)
    return _make_directories(root_fd, b"/" + above, mode, budget), name


def _make_file(root_fd: int, path: bytes, mode: int, directory_mode: int, budget: int) -> int:
    try:
        return open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        pass
    above, name = _split(path)
    parent = _make_directories(root_fd, b"/" + above, directory_mode, budget)
    try:
        return _create_file(parent, name, mode)
    except FileExistsError:
        if not budget:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path)) from None
        target = _link_target(b"/" + above, parent, name)
    finally:
        os.close(parent)
    return _make_file(root_fd, target, mode, directory_mode, budget - 1)


def _create_file(parent: int, name: bytes, mode: int) -> int:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    made = os.open(name, flags, 0o600, dir_fd=parent)
    try:
        os.fchmod(made, mode)
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(made)


def _replace(parent: int, name: bytes, content: bytes, mode: int) -> None:
    try:  # noqa: SIM105  (contextlib is not for the launch side)
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=parent)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


# --- reading ------------------------------------------------------------------------------------------------


def _require_regular(fd: int, path: StrOrBytes) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def _read_all(fd: int, path: StrOrBytes, limit: int) -> bytes:
    content = bytearray()
    while len(content) <= limit:
        piece = os.read(fd, min(limit + 1 - len(content), 1 << 16))
        if not piece:
            return bytes(content)
        content += piece
    raise OSError(errno.EFBIG, f"larger than {limit} bytes", path)


# --- removing -----------------------------------------------------------------------------------------------

_DESCEND = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def _unlink_or_descend(dirfd: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=dirfd)
    except IsADirectoryError:
        _remove_directory(dirfd, name)


class _Level:
    """A directory being emptied: name, identity to recognise it by on the way back, what is left in it."""

    __slots__ = ("identity", "name", "subdirectories")

    def __init__(self, fd: int, name: bytes) -> None:
        status = os.fstat(fd)
        self.name = name
        self.identity = (status.st_dev, status.st_ino)
        self.subdirectories: list[bytes] = []


def _remove_directory(dirfd: int, name: bytes) -> None:
    """Depth first with one descriptor at a time: no depth and no width exhausts anything of ours."""
    failures: list[OSError] = []
    fd = _enter(dirfd, name)
    levels = [_Level(fd, name)]
    try:
        levels[0].subdirectories = _unlink_files(fd, failures)
        while True:
            level = levels[-1]
            if level.subdirectories:
                fd = _go_down(fd, levels, failures)
            elif len(levels) > 1:
                fd = _go_up(fd, levels, failures)
            else:
                break
    finally:
        os.close(fd)
    if failures:
        raise failures[0]
    os.rmdir(name, dir_fd=dirfd)


def _enter(dirfd: int, name: bytes) -> int:
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
    return openat2(dirfd, name, _DESCEND, resolve=resolve)


def _unlink_files(fd: int, failures: list[OSError]) -> list[bytes]:
    """Unlink all that is not a directory; the names of those that are."""
    subdirectories = []
    for name in map(os.fsencode, os.listdir(fd)):  # noqa: PTH208
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            subdirectories.append(name)
        except FileNotFoundError:
            pass
        except OSError as error:
            failures.append(error)
    return subdirectories


def _go_down(fd: int, levels: list[_Level], failures: list[OSError]) -> int:
    name = levels[-1].subdirectories.pop()
    try:
        child = _enter(fd, name)
    except FileNotFoundError:
        return fd
    except OSError as error:
        failures.append(error)
        return fd
    try:
        level = _Level(child, name)
        level.subdirectories = _unlink_files(child, failures)
    except OSError:
        os.close(child)
        raise
    levels.append(level)
    os.close(fd)
    return child


def _go_up(fd: int, levels: list[_Level], failures: list[OSError]) -> int:
    """Return to the directory we came from, and to no other, then remove the one just emptied."""
    done = levels.pop()
    parent = os.open(b"..", _DESCEND | os.O_CLOEXEC, dir_fd=fd)
    status = os.fstat(parent)
    if (status.st_dev, status.st_ino) != levels[-1].identity:
        os.close(parent)
        raise OSError(errno.ESTALE, "moved away while it was being removed", os.fsdecode(done.name))
    os.close(fd)
    try:
        os.rmdir(done.name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        failures.append(error)
    return parent
