"""What root may do in the container (parity CAP-1, attack R-17).

Docker's fourteen capabilities, less what this process does not have itself, with docker's additions and
removals.  The inheritable and ambient sets are empty: a program run by a user other than root therefore has
no capability at all after execve(2), as with docker.
"""

from __future__ import annotations

from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.granted import granted
from mesocosm.linux import capabilities
from mesocosm.plan import Contribution
from mesocosm.plan.operations import SetCapabilities


class Capabilities(Isolator):
    """The five capability sets of the payload."""

    name = "linux/capabilities"
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """The sets.  Raises InvalidConfig and Unsupported as ``granted`` does."""
        mask = granted(container.config.capabilities, self.host.capabilities)
        step = SetCapabilities(bounding=mask, permitted=mask, effective=mask)
        return Contribution(
            steps=(step,), notes=(f"capabilities: {mask.bit_count()} of {len(capabilities.NAMES)}",)
        )
