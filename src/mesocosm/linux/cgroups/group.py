"""One cgroup: a directory of interface files."""

from __future__ import annotations

import errno
import os

from mesocosm.linux.cgroups import events

UNLIMITED_V1 = 0x7FFFFFFFFFFFF000
"""What the v1 memory controller shows for "no limit": the largest page-aligned counter."""


class Cgroup:
    """A cgroup by the path of its directory; holds nothing, asks the kernel every time.

    Failures are ``OSError`` with the file's path: ENOENT for a cgroup or interface file that does not exist,
    the kernel's own refusals (EINVAL, EBUSY, ERANGE ...) from `write`.
    """

    __slots__ = ("path", "version")

    def __init__(self, path: str, version: int) -> None:
        self.path = path
        self.version = version

    def __repr__(self) -> str:
        return f"Cgroup({self.path!r}, v{self.version})"

    def exists(self) -> bool:
        """Whether the directory is there."""
        return os.path.isdir(self.path)  # noqa: PTH112

    def has(self, name: str) -> bool:
        """Whether there is an interface file of this name; it depends on kernel, version and controllers."""
        return os.path.exists(f"{self.path}/{name}")  # noqa: PTH110

    def child(self, name: str) -> Cgroup:
        """The cgroup ``name`` below this one."""
        return Cgroup(f"{self.path}/{name}", self.version)

    def children(self) -> list[str]:
        """The names of the cgroups directly below; empty when this one is gone."""
        try:
            with os.scandir(self.path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    # --- interface files ------------------------------------------------------------------------------------

    def read(self, name: str) -> str:
        """The text of an interface file."""
        fd = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            pieces = []
            while piece := _reading(fd, f"{self.path}/{name}"):
                pieces.append(piece)
            return b"".join(pieces).decode()
        finally:
            os.close(fd)

    def read_int(self, name: str) -> int:
        """A file that holds one number."""
        return int(self.read(name))

    def read_limit(self, name: str) -> int | None:
        """A limit in the file's unit; None for no limit, which is ``max``, -1 or v1's largest number."""
        text = self.read(name).strip()
        if text == "max":
            return None
        value = int(text)
        return None if value < 0 or value >= UNLIMITED_V1 else value

    def read_table(self, name: str) -> dict[str, int]:
        """A flat keyed file, one ``KEY NUMBER`` a line, such as memory.stat; other lines are left out."""
        table = {}
        for line in self.read(name).splitlines():
            key, _, value = line.partition(" ")
            if value.isdecimal():
                table[key] = int(value)
        return table

    def write(self, name: str, value: str | int) -> None:
        """Write an interface file in one write(2), as the kernel wants it."""
        path = f"{self.path}/{name}"
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(value).encode())
        except OSError as error:
            code = error.errno or 0
            raise OSError(code, f"{os.strerror(code)} for {str(value)!r}", path) from None
        finally:
            os.close(fd)

    async def wait(self, name: str, key: str, *, above: int = 0) -> int:
        """Wait until ``key`` of an events file exceeds ``above``; its value.  See `events.wait_counter`."""
        return await events.wait_counter(self, name, key, above=above)

    # --- processes ------------------------------------------------------------------------------------------

    def procs(self) -> list[int]:
        """The processes directly in this cgroup; those of other PID namespaces that we cannot see left
        out.
        """
        try:
            return [pid for pid in map(int, self.read("cgroup.procs").split()) if pid]
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return []
            raise

    def all_procs(self) -> list[int]:
        """The processes in this cgroup and in every one below."""
        return [pid for group in self.walk() for pid in group.procs()]

    def populated(self) -> bool:
        """Whether a living process is in this cgroup or below; zombies do not count.

        v2 keeps it in ``cgroup.events``, v1 has to be walked.
        """
        if self.version == 2:
            try:
                return self.read_table("cgroup.events").get("populated", 0) == 1
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENODEV):
                    return False
                raise
        return any(group.procs() for group in self.walk())

    def walk(self) -> list[Cgroup]:
        """This cgroup and all below it, parents first."""
        found = [self]
        for group in found:
            found.extend(group.child(name) for name in group.children())
        return found

    # --- directory ------------------------------------------------------------------------------------------

    def create(self) -> bool:
        """Make the directory; False when it is there already.  The one above must exist."""
        while True:
            try:
                os.mkdir(self.path)  # noqa: PTH102
            except FileExistsError:
                if self.exists():
                    return False
                if os.path.lexists(self.path):
                    raise  # an interface file of the cgroup above has this name
            else:
                return True

    def remove(self) -> None:
        """Remove this cgroup and all below it.  EBUSY while a process lives in one; no error when it is
        gone.
        """
        if _removed(self.path):
            return
        for group in reversed(self.walk()):
            if not _removed(group.path):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), group.path)


def _removed(path: str) -> bool:
    """Whether it is gone now; not while a process or another cgroup is in it."""
    try:
        os.rmdir(path)  # noqa: PTH106
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _reading(fd: int, path: str) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError as error:
        raise OSError(error.errno or 0, os.strerror(error.errno or 0), path) from None
