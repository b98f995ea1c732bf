"""Which cgroup hierarchies this host has mounted, where, and which controllers each of them serves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from mesocosm.errors import Unsupported
from mesocosm.linux.mountinfo import MountEntry, read_mountinfo

V1_CONTROLLERS = frozenset(
    ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "net_cls", "blkio", "perf_event", "net_prio",
     "hugetlb", "pids", "rdma", "misc")
)  # fmt: skip
ALIASES = {"blkio": "io", "freeze": "freezer", "mem": "memory"}
"""Other names of a controller to the one used here; ``io`` is v2's name for what v1 calls ``blkio``."""

CORE = ("cpuacct", "devices", "freezer", "perf_event")
"""What every v2 cgroup does without a controller: cpu.stat, BPF programs, cgroup.freeze, perf's own
look-up.
"""

ROOT = "/sys/fs/cgroup"


def canonical(controller: str) -> str:
    """The name used here for a controller's v1 or v2 name."""
    return ALIASES.get(controller, controller)


class Hierarchy(msgspec.Struct, frozen=True):
    """One mounted hierarchy.

    ``base`` is the directory below which cgroups of ours can be made: the topmost one that this process sees
    and may write to.  ``controllers`` have the names of `canonical`; a named v1 hierarchy has ``name=...``.
    """

    version: Literal[1, 2]
    mount_point: str
    base: str
    controllers: tuple[str, ...]


class Layout(msgspec.Struct, frozen=True):
    """All hierarchies of a host.  ``mode`` "hybrid": controllers on v1, and a v2 hierarchy beside them."""

    mode: Literal["v1", "hybrid", "v2"]
    hierarchies: tuple[Hierarchy, ...]

    @classmethod
    def detect(
        cls,
        mounts: Iterable[MountEntry] | None = None,
        own: str | None = None,
        *,
        read: Callable[[str], str] | None = None,
        writable: Callable[[str], bool] | None = None,
    ) -> Layout:
        """Look at the mount table and at the calling process' own cgroups.

        ``mounts`` of `parse_mountinfo`, ``own`` the text of ``/proc/self/cgroup``; ``read`` and ``writable``
        ask about a file and a directory.  Raises Unsupported when no cgroup filesystem is mounted.
        """
        entries = list(read_mountinfo() if mounts is None else mounts)
        places = _own_places(Path("/proc/self/cgroup").read_text() if own is None else own)
        ask = _Questions(read or _read, writable or _writable)
        v1 = [_v1(entry, places, ask) for entry in _chosen(entries, "cgroup")]
        v2 = [_v2(entry, places, ask) for entry in _chosen(entries, "cgroup2")[:1]]
        serving = [h for h in v1 if any(c in V1_CONTROLLERS or c == "io" for c in h.controllers)]
        if not serving and not v2:
            raise Unsupported("no cgroup filesystem is mounted", hint=f"mount -t cgroup2 cgroup2 {ROOT}")
        mode: Literal["v1", "hybrid", "v2"] = "hybrid" if serving and v2 else "v1" if serving else "v2"
        return cls(mode, (*v2, *v1) if serving else tuple(v2))

    @property
    def unified(self) -> Hierarchy | None:
        """The v2 hierarchy, which on a hybrid host may serve no controller but still can kill and tell."""
        return next((h for h in self.hierarchies if h.version == 2), None)

    @property
    def controllers(self) -> tuple[str, ...]:
        """Every controller that is served, by its canonical name, sorted."""
        served = {c for h in self.hierarchies for c in h.controllers if "=" not in c}
        if self.mode == "v2":
            served.update(CORE)
        return tuple(sorted(served))

    def serving(self, controller: str) -> Hierarchy | None:
        """The hierarchy that serves a controller, None when none does."""
        name = canonical(controller)
        for hierarchy in self.hierarchies:
            if name in hierarchy.controllers:
                return hierarchy
        return self.unified if self.mode == "v2" and name in CORE else None


class _Questions:
    def __init__(self, read: Callable[[str], str], writable: Callable[[str], bool]) -> None:
        self.read = read
        self.writable = writable


def _read(path: str) -> str:
    return Path(path).read_text()


def _writable(path: str) -> bool:
    """A read-only mount says no here even to root."""
    return os.access(path, os.W_OK)


def _own_places(text: str) -> dict[str, str]:
    """Own path by controller list, as in ``/proc/PID/cgroup``; the v2 hierarchy's list is empty."""
    places = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        places[controllers] = path
    return places


def _chosen(entries: list[MountEntry], filesystem: str) -> list[MountEntry]:
    """One mount per hierarchy: those that containers have in their roots are other views of the same."""
    best: dict[str, MountEntry] = {}
    for entry in entries:
        if entry.filesystem != filesystem:
            continue
        held = best.get(entry.device)
        if held is None or _preference(entry) < _preference(held):
            best[entry.device] = entry
    return sorted(best.values(), key=lambda entry: entry.mount_point)


def _preference(entry: MountEntry) -> tuple[bool, int]:
    below = entry.mount_point == ROOT or entry.mount_point.startswith(ROOT + "/")
    return not below, len(entry.mount_point)


def _v1(entry: MountEntry, places: dict[str, str], ask: _Questions) -> Hierarchy:
    words = [word for word in entry.super_options if word in V1_CONTROLLERS or word.startswith("name=")]
    own = next((places[c] for c in places if c and set(c.split(",")) == set(words)), "/")
    return Hierarchy(1, entry.mount_point, _base(entry, own, ask), tuple(canonical(word) for word in words))


def _v2(entry: MountEntry, places: dict[str, str], ask: _Questions) -> Hierarchy:
    base = _base(entry, places.get("", "/"), ask)
    controllers = tuple(canonical(word) for word in ask.read(f"{base}/cgroup.controllers").split())
    return Hierarchy(2, entry.mount_point, base, controllers)


def _base(entry: MountEntry, own: str, ask: _Questions) -> str:
    """The mount point; where that may not be written to, our own cgroup below it (a delegated subtree).

    The topmost directory is right even for a process deep inside a session's scope: a container has to
    outlive that.  A mount of a subtree, as in a container, shows only the path below its ``root``.
    """
    if ask.writable(entry.mount_point):
        return entry.mount_point
    inside = own.removeprefix(entry.root.rstrip("/")) if own.startswith(entry.root) else own
    own_directory = entry.mount_point + (inside if inside != "/" else "")
    return own_directory if ask.writable(own_directory) else entry.mount_point
