"""A network of the container's own, with nothing in it but the loopback interface."""

from __future__ import annotations

from mesocosm.isolators.base import Container, Isolator
from mesocosm.plan import Contribution
from mesocosm.plan.operations import LoopbackUp


class NetNamespace(Isolator):
    """A network namespace, network_namespaces(7): ``none`` is loopback only, ``host`` shares the host's."""

    name = "namespaces/net"
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """The namespace, its loopback interface up."""
        if container.config.namespaces.net == "host":
            return Contribution(notes=("network: the host's",))
        return Contribution(namespaces=("net",), steps=(LoopbackUp(),), notes=("network: none but loopback",))
