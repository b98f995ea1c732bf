"""The cgroups of all containers: made, joined, emptied and removed as one.

A container's ID says where it lives, in every hierarchy alike: ``a`` in ``BASE/PARENT/a``, the nested ``a.b``
in ``BASE/PARENT/a/b``, so that a parent's limits bind its children.  A v2 cgroup that hands controllers to
children may hold no processes of its own (cgroup-v2.rst, "No Internal Process Constraint"): those of a
container with nested ones live one level deeper, in ``.leaf``.  No ID segment begins with a dot.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable, Sequence

import msgspec

from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.linux.cgroups import events, members
from mesocosm.linux.cgroups.group import Cgroup
from mesocosm.linux.cgroups.layout import Hierarchy, Layout

LEAF = ".leaf"
TREE = "tree"
"""Stands among controllers for the hierarchy that holds a container's processes together."""

_ATTEMPTS = 16
"""At moving processes away while new ones are born."""

CREATIONS = 100
"""Attempts at a container's cgroups: each fails only where somebody removes our parent in that moment."""

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)


class JoinTargets(msgspec.Struct, frozen=True):
    """How a process gets into a container's cgroups.

    ``files``: a single-threaded process writes ``0`` to each.  For v1 these are ``tasks`` files, because
    moving only oneself there needs no grace period of the kernel, unlike ``cgroup.procs``.  ``directory``:
    the v2 cgroup to be born in by clone3's CLONE_INTO_CGROUP, and ``directory_file`` what to write to
    instead; both None without a v2 hierarchy.
    """

    files: tuple[str, ...]
    directory: str | None
    directory_file: str | None


class CgroupTree:
    """All cgroups below ``parent`` in every hierarchy of ``layout``.  Stateless: the kernel is asked each
    time.
    """

    def __init__(self, layout: Layout, parent: str = "mesocosm") -> None:
        if not _NAME.fullmatch(parent):
            raise InvalidConfig(f"cgroup parent {parent!r} is not a plain name")
        self.layout = layout
        self.parent = parent

    @classmethod
    def detect(cls, parent: str = "mesocosm") -> CgroupTree:
        """The tree on this host.  Raises Unsupported when it has no cgroups."""
        return cls(Layout.detect(), parent)

    # --- what there is --------------------------------------------------------------------------------------

    @property
    def controllers(self) -> tuple[str, ...]:
        """The controllers of this host, canonical names (v1's ``blkio`` is ``io``)."""
        return self.layout.controllers

    def version(self, controller: str) -> int:
        """1 or 2: by which version's rules and file names a controller goes.  Raises Unsupported."""
        return self._serving(controller).version

    def of(self, container: str, controller: str) -> Cgroup:
        """The cgroup that has this controller's files; it need not exist.  Raises Unsupported."""
        return self._at(self._serving(controller), container)

    def tracking(self, container: str) -> Cgroup:
        """The cgroup by which a container's processes are found and killed: v2's, else v1's freezer."""
        return self._at(self._tracker, container)

    def tree_path(self, container: str) -> str:
        """The directory of `tracking`."""
        return self.tracking(container).path

    def exists(self, container: str) -> bool:
        """Whether the container has a cgroup in any hierarchy."""
        return bool(self._present(container))

    def populated(self, container: str) -> bool:
        """Whether a living process is in any cgroup of the container or of those nested in it."""
        return any(group.populated() for group in self._present(container))

    def pids(self, container: str) -> Sequence[int]:
        """The processes of a container and of those nested in it, sorted."""
        return sorted({pid for group in self._present(container) for pid in group.all_procs()})

    def list(self) -> tuple[str, ...]:
        """The IDs of all containers, nested ones too, that any hierarchy knows below our parent: for
        orphans.
        """
        found: set[str] = set()
        for hierarchy in self.layout.hierarchies:
            top = self._parent(hierarchy)
            for group in top.walk()[1:]:
                segments = group.path[len(top.path) + 1 :].split("/")
                if all(_SEGMENT.fullmatch(segment) for segment in segments):
                    found.add(".".join(segments))
        return tuple(sorted(found))

    # --- making ---------------------------------------------------------------------------------------------

    def create(self, container: str, controllers: Iterable[str]) -> None:
        """Make the container's cgroup in every hierarchy that these controllers need, and the tracking one.

        Idempotent.  Raises Unsupported for a controller that is not there, OSError for the kernel's refusal.
        """
        wanted = list(controllers)
        hierarchies = {self._tracker.mount_point: self._tracker}
        for controller in wanted:
            serving = self._serving(controller)
            hierarchies[serving.mount_point] = serving
        for hierarchy in hierarchies.values():
            self._create_in(hierarchy, container, wanted)

    def _create_in(self, hierarchy: Hierarchy, container: str, controllers: Sequence[str]) -> None:
        """Begin again where our parent cgroup goes meanwhile: who destroys the last container removes it."""
        for attempt in range(1, CREATIONS + 1):
            try:
                if hierarchy.version == 2:
                    self._create_v2(hierarchy, container, controllers)
                else:
                    self._create_v1(hierarchy, container)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV) or attempt == CREATIONS:
                    raise
            else:
                return

    def join_targets(self, container: str) -> JoinTargets:
        """Where a process of the container has to go: into each of its cgroups that exists."""
        present = self._present(container)
        files = tuple(f"{group.path}/tasks" for group in present if group.version == 1)
        directory = next((_birthplace(group).path for group in present if group.version == 2), None)
        return JoinTargets(files, directory, directory and f"{directory}/cgroup.procs")

    def _create_v1(self, hierarchy: Hierarchy, container: str) -> None:
        for group in self._path_to(hierarchy, container):
            if group.create() and "cpuset" in hierarchy.controllers:
                _fill_cpuset(group)

    def _create_v2(self, hierarchy: Hierarchy, container: str, controllers: Sequence[str]) -> None:
        above = Cgroup(hierarchy.base, 2)
        handed_down = [c for c in controllers if c in hierarchy.controllers]
        for depth, group in enumerate(self._path_to(hierarchy, container)):
            if depth > 1:
                above.child(LEAF).create()
            _hand_down(above, handed_down)
            group.create()
            above = group

    def _path_to(self, hierarchy: Hierarchy, container: str) -> Sequence[Cgroup]:
        groups = [self._parent(hierarchy)]
        for segment in _segments(container):
            groups.append(groups[-1].child(segment))
        return groups

    # --- ending ---------------------------------------------------------------------------------------------

    async def kill_all(self, container: str, *, within: float = 30.0) -> None:
        """Kill every process of the container and of those nested in it, and wait until none is left.

        v2, on hybrid hosts too, by ``cgroup.kill`` (Linux 5.14), which no fork outruns; else frozen, killed
        and thawed until empty.  TimeoutError when one does not go ``within`` seconds, such as one in
        uninterruptible sleep.
        """
        async with asyncio.timeout(within):
            present = self._present(container)
            for group in present:
                await members.kill(group, present)

    async def freeze(self, container: str, *, within: float = 10.0) -> None:
        """Stop every process of the container and of those nested in it where it is, until `thaw`.

        TimeoutError when one does not stop ``within`` seconds, such as one in uninterruptible sleep; some are
        frozen then.  Unsupported where the kernel cannot (cgroup-v2 before Linux 5.2).
        """
        async with asyncio.timeout(within):
            await members.freeze(self.tracking(container))

    def thaw(self, container: str) -> None:
        """Undo `freeze`; nothing to do for a container that has no cgroup any more."""
        with contextlib.suppress(FileNotFoundError):
            members.thaw(self.tracking(container))

    def thawing(self, container: str) -> tuple[tuple[str, str], ...]:
        """What `thaw` writes: files, and the word for each."""
        return members.thawing(self.tracking(container))

    async def wait_empty(self, container: str) -> None:
        """Wait until no living process is in any cgroup of the container."""
        for group in self._present(container):
            await events.wait_empty(group)

    async def remove(self, container: str, *, within: float = 5.0) -> None:
        """Remove all cgroups of the container and of those nested in it; nothing to do for an unknown one.

        Just after the last process has ended the kernel may still answer EBUSY: tried again until
        ``timeout``.
        """
        deadline = time.monotonic() + within
        for group in self._present(container):
            pause = 0.001
            while True:
                try:
                    group.remove()
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.1)

    def remove_parent(self) -> None:
        """Remove our parent cgroup from every hierarchy where no container is in it."""
        for hierarchy in self.layout.hierarchies:
            try:
                os.rmdir(self._parent(hierarchy).path)  # noqa: PTH106
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EBUSY):
                    raise

    # --- paths ----------------------------------------------------------------------------------------------

    @property
    def _tracker(self) -> Hierarchy:
        return self.layout.unified or self._serving("freezer")

    def _serving(self, controller: str) -> Hierarchy:
        if controller == TREE:
            return self._tracker
        hierarchy = self.layout.serving(controller)
        if hierarchy is None:
            raise Unsupported(
                f"this host has no {controller} cgroup controller",
                hint=f"available: {', '.join(self.controllers)}; boot with it enabled or delegate it to us",
            )
        return hierarchy

    def _parent(self, hierarchy: Hierarchy) -> Cgroup:
        return Cgroup(f"{hierarchy.base.rstrip('/')}/{self.parent}", hierarchy.version)

    def _at(self, hierarchy: Hierarchy, container: str) -> Cgroup:
        return Cgroup("/".join((self._parent(hierarchy).path, *_segments(container))), hierarchy.version)

    def _present(self, container: str) -> Sequence[Cgroup]:
        """The container's cgroups that exist, the tracking one first."""
        tracker = self._tracker
        rest = [h for h in self.layout.hierarchies if h != tracker]
        groups = [self._at(hierarchy, container) for hierarchy in (tracker, *rest)]
        return [group for group in groups if group.exists()]


def _segments(container: str) -> list[str]:
    segments = container.split(".")
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise InvalidConfig(f"container ID {container!r} cannot name a cgroup")
    return segments


def _fill_cpuset(group: Cgroup) -> None:
    """A new v1 cpuset is empty, and no process may enter it before it is told processors and memory nodes."""
    above = Cgroup(os.path.dirname(group.path), 1)  # noqa: PTH120
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not group.read(name).strip():
            group.write(name, above.read(name).strip())


def _birthplace(group: Cgroup) -> Cgroup:
    """Where processes of a v2 group live: in itself, as long as it hands down nothing."""
    return group.child(LEAF) if group.read("cgroup.subtree_control").strip() else group


def _hand_down(group: Cgroup, controllers: list[str]) -> None:
    """Enable v2 controllers for the cgroups below ``group``."""
    enabled = group.read("cgroup.subtree_control").split()
    missing = [f"+{controller}" for controller in controllers if controller not in enabled]
    for attempts_left in reversed(range(_ATTEMPTS if missing else 0)):
        # With processes in it the kernel refuses, but for cpu, cpuset, perf_event and pids alone: then the
        # group becomes a threaded domain, and no process may enter those below (cgroup-v2.rst, "Threads").
        if group.has("cgroup.type"):  # all but the real root
            _make_room(group)
        try:
            group.write("cgroup.subtree_control", " ".join(missing))
            return
        except OSError as error:
            if error.errno != errno.EBUSY or not attempts_left:
                raise


def _make_room(group: Cgroup) -> None:
    """Move the processes of a delegated base, ours among them, into a leaf of its own.

    Inside another container the topmost cgroup that we see is not the real root, which alone may hold
    processes and hand down controllers.
    """
    room = group.child(LEAF)
    for _ in range(_ATTEMPTS):
        pids = group.procs()
        if not pids:
            return
        room.create()
        for pid in pids:
            try:
                room.write("cgroup.procs", pid)
            except ProcessLookupError:
                continue
