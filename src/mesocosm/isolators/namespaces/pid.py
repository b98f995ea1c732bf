"""Process IDs of the container's own: its first process is number 1, and others cannot be named.

The ``/proc`` that shows them is filesystem/linux's, hence the requirement (parity NS-PID-1).
"""

from __future__ import annotations

from mesocosm.isolators.base import Container, Isolator
from mesocosm.plan import Contribution


class PidNamespace(Isolator):
    """A PID namespace, pid_namespaces(7), unless the request shares the host's."""

    name = "namespaces/pid"
    requires = ("filesystem/linux",)
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """The namespace."""
        if container.config.namespaces.pid == "host":
            return Contribution(notes=("process IDs: the host's",))
        return Contribution(namespaces=("pid",), notes=("process IDs: its own",))
