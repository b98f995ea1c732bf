"""What a test looks at before and after: the kernel and the disk are asked, calls are not counted."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mesocosm.errors import MesocosmError
from mesocosm.linux.mountinfo import read_mountinfo


def hold(fact: bool, otherwise: str) -> None:
    """An assertion that ``python -O`` leaves in."""
    if not fact:
        raise AssertionError(otherwise)


def hold_told(error: MesocosmError) -> None:
    """It says in one line what is wrong, and as a hint what to do."""
    hold("\n" not in str(error), f"{error!s:.200} is not one line")
    hold(bool(error.hint), f"{error!s:.200}: what to do is not told")


def descriptors() -> Counter[str]:
    """What is open, how often; sockets and pipes are alike."""
    found: Counter[str] = Counter()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own descriptor
            found[str(path.readlink()).partition(":[")[0]] += 1
    return found


def mounted() -> frozenset[str]:
    """Where something is mounted in this namespace, as ``PLACE (TYPE)``."""
    return frozenset(f"{entry.mount_point} ({entry.filesystem})" for entry in read_mountinfo())


def children() -> frozenset[str]:
    """The processes that this one has started and not waited for."""
    return frozenset(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def attached(folder: Path) -> frozenset[str]:
    """The loop devices whose files lie in ``folder``."""
    found = set()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # it was let go meanwhile
            if path.read_text().startswith(f"{folder}/"):
                found.add(path.parts[3])
    return frozenset(found)


def files(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that lies in ``folder`` on its own file system: kind, mode, owner, attributes; of all but
    directories also size, time, content.
    """
    found: dict[str, tuple[object, ...]] = {}
    device = folder.lstat().st_dev
    for path in _walk(str(folder), device):
        status = os.lstat(path)
        names = sorted(os.listxattr(path, follow_symlinks=False))
        is_directory = stat.S_ISDIR(status.st_mode)
        found[path] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_rdev),
            None if is_directory else (status.st_mtime_ns, status.st_size, status.st_nlink),
            tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
            Path(path).read_bytes() if stat.S_ISREG(status.st_mode) else None,
        )
    return found


def _walk(folder: str, device: int) -> Iterator[str]:
    yield folder
    with os.scandir(folder) as entries:
        names = sorted(entry.path for entry in entries)
    for path in names:
        status = os.lstat(path)
        if status.st_dev != device:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(path, device)
        else:
            yield path


class Observed(NamedTuple):
    """Everything that could be left behind or changed: what is mounted, attached, open, running, on disk."""

    mounts: frozenset[str]
    loops: frozenset[str]
    descriptors: Counter[str]
    processes: frozenset[str]
    files: dict[str, tuple[object, ...]]

    @classmethod
    def now(cls, folder: Path, trees: Iterable[Path]) -> Observed:
        """As it is: loop devices of files in ``folder``, files in ``trees``, all else of this process."""
        found = {path: facts for tree in trees for path, facts in files(tree).items()}
        return cls(mounted(), attached(folder), descriptors(), children(), found)

    def changes(self, later: Observed) -> list[str]:
        """What is not as it was, one line each."""
        lines = []
        for kind, one, two in (
            ("mount", self.mounts, later.mounts),
            ("loop device", self.loops, later.loops),
            ("descriptor", frozenset(self.descriptors.items()), frozenset(later.descriptors.items())),
            ("process", self.processes, later.processes),
        ):
            lines += [f"{kind} gone: {what}" for what in sorted(map(str, one - two))]
            lines += [f"{kind}: {what}" for what in sorted(map(str, two - one))]
        return lines + [f"file: {path}" for path in changed(self.files, later.files)]


def changed(before: dict[str, tuple[object, ...]], after: dict[str, tuple[object, ...]]) -> list[str]:
    """The paths that are not what they were."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
