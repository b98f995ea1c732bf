"""What root may do in the container (parity CAP-1, attack R-17).

Docker's fourteen capabilities, less what this process does not have itself, with docker's additions and
removals.  The inheritable and ambient sets are empty: a program run by a user other than root therefore has
no capability at all after execve(2), as with docker.
"""

from __future__ import annotations

from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.words import nearest
from mesocosm.linux import capabilities
from mesocosm.model import CapabilityRequest
from mesocosm.plan import Contribution
from mesocosm.plan.operations import SetCapabilities


def granted(request: CapabilityRequest, ceiling: int) -> int:
    """The mask that a request comes to under the ceiling of what there is to give.

    Raises InvalidConfig for an unknown name, Unsupported for one asked for by name that is above the ceiling.
    ``ALL`` means all there is.
    """
    added = tuple(_known(name) for name in request.add)
    dropped = tuple(_known(name) for name in request.drop)
    for name in added:
        if name != "ALL" and not ceiling >> capabilities.number(name) & 1:
            raise Unsupported(
                f"capability {name} cannot be given: this process does not have it",
                hint="run as root outside of a container, or leave it out",
            )
    # docker applies removals first: what is both removed and added by name is there
    removed = tuple(name for name in dropped if name == "ALL" or name not in added)
    return capabilities.adjusted(capabilities.DEFAULT, added, removed) & ceiling


def _known(name: str) -> str:
    """The canonical spelling, ``CAP_...`` or ``ALL``."""
    word = name.upper()
    if word in ("ALL", "CAP_ALL"):
        return "ALL"
    word = word if word.startswith("CAP_") else f"CAP_{word}"
    if word not in capabilities.NUMBERS:
        raise InvalidConfig(
            f"no capability is called {name!r}",
            hint=nearest(word, capabilities.NUMBERS) or "see capabilities(7)",
        )
    return word


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
