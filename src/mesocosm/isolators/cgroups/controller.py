"""What the isolators of cgroup controllers have in common: the group is made, joined and shown.

On v1 each controller has a directory, and a process joins each of them.  On v2 there is one directory, which
the launcher makes the process' birthplace, so that nothing is left to join or to show here.  The cgroups of a
container are removed as one, by the containerizer that made them: there is nothing to clean up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from mesocosm.errors import NotFound, Unsupported
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.host import Host
from mesocosm.linux.cgroups import Cgroup
from mesocosm.model import ContainerID
from mesocosm.plan import HostAction, MakeCgroup, Step
from mesocosm.plan.operations import BindMount, JoinCgroup

ROOT = "/sys/fs/cgroup"


class Controller(Isolator):
    """Base of the isolators in this package."""

    controller: ClassVar[str]
    """The controller whose files the isolator owns, by its v2 name."""
    companions: ClassVar[tuple[str, ...]] = ()
    """Further v1 controllers that the isolator owns, where v2 has only the one."""
    nested = True

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.version = host.cgroups.version(self.controller)

    @classmethod
    def create(cls, host: Host) -> Isolator:
        """An instance.  Raises Unsupported where the host has no such controller."""
        missing = [name for name in cls._owned(host) if host.cgroups.layout.serving(name) is None]
        if missing:
            raise Unsupported(
                f"{cls.name}: this host has no {missing[0]} cgroup controller",
                hint=f"enable it, or choose the isolation without {cls.name}",
            )
        return cls(host)

    @classmethod
    def _owned(cls, host: Host) -> tuple[str, ...]:
        serving = host.cgroups.layout.serving(cls.controller)
        v1 = serving is not None and serving.version == 1
        return (cls.controller, *cls.companions) if v1 else (cls.controller,)

    def group(self, container: ContainerID, controller: str | None = None) -> Cgroup:
        """The container's cgroup for a controller, this isolator's own by default; it need not exist."""
        return self.host.cgroups.of(str(container), controller or self.controller)

    def living(self, container: ContainerID) -> Cgroup:
        """The same, raising NotFound when it does not exist."""
        group = self.group(container)
        if not group.exists():
            raise NotFound(f"container {container} has no {self.controller} cgroup", hint="is it running?")
        return group

    def making(self) -> Iterator[HostAction]:
        """Host steps that make the cgroups."""
        return (MakeCgroup(controller=name) for name in self._owned(self.host))

    def joining(self, container: Container) -> Iterator[Step]:
        """Child steps that join them, and show them read-only where there is a root (parity CG-4)."""
        if self.version == 2:
            return
        paths = {name: self.group(container.id, name).path for name in self._owned(self.host)}
        for path in dict.fromkeys(paths.values()):
            # A single-threaded process moves itself through tasks without the grace period of cgroup.procs.
            yield JoinCgroup(source=f"{path}/tasks")
        if container.root is not None:
            yield from _view(paths.items())


def _view(paths: Iterable[tuple[str, str]]) -> Iterator[Step]:
    for name, path in paths:
        yield BindMount(
            source=path,
            target=f"{ROOT}/{name}",
            recursive=False,
            flags=("ro", "nosuid", "nodev", "noexec"),
            trusted=True,
        )
