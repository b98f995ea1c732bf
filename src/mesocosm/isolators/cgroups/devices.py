"""Which devices may be opened, whatever nodes a container makes (attack R-24, parity §3.3 devices).

Docker's list without the host's system console (5:1); Mesos' has that, consoles 4:0 and 4:1 and /dev/net/tun
(10:200) besides.  What is left are the memory devices and the container's own terminals.  Nodes of any number
may be made, as docker has it; they open nothing.
"""

from __future__ import annotations

from mesocosm.isolators.base import Container
from mesocosm.isolators.cgroups.controller import Controller
from mesocosm.linux.devices import DEFAULT
from mesocosm.plan import AllowDevices, Contribution

RULES = tuple(map(str, DEFAULT))


class Devices(Controller):
    """The devices controller on v1, a BPF program on v2."""

    name = "cgroups/devices"
    controller = "devices"

    def prepare(self, container: Container) -> Contribution:
        """The group and the list of what is allowed."""
        return Contribution(
            host=(*self.making(), AllowDevices(rules=RULES)),
            steps=tuple(self.joining(container)),
            notes=(f"devices: {len(RULES) - 2} allowed",),
        )
