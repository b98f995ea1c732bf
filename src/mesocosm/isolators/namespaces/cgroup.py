"""A view of the cgroup tree that begins at the container's own cgroup."""

from __future__ import annotations

from mesocosm.isolators.base import Container, Isolator
from mesocosm.plan import Contribution


class CgroupNamespace(Isolator):
    """A cgroup namespace, cgroup_namespaces(7): ``/proc/PID/cgroup`` does not tell where on the host."""

    name = "namespaces/cgroup"
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """The namespace."""
        if container.config.namespaces.cgroup == "host":
            return Contribution(notes=("cgroup names: the host's",))
        return Contribution(namespaces=("cgroup",), notes=("cgroup names: its own",))
