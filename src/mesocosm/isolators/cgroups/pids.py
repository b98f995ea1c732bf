"""How many processes and threads: a fork bomb is held at the limit, the host goes on (attack R-34).

The kernel answers EAGAIN to the fork that would exceed it: nothing is killed, and there is nothing to watch.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesocosm.isolators.base import Container
from mesocosm.isolators.cgroups import limits
from mesocosm.isolators.cgroups.controller import Controller
from mesocosm.model import ContainerID, Resources, Usage
from mesocosm.plan import Contribution, WriteCgroup


class Pids(Controller):
    """The pids controller; its files are the same in both versions."""

    name = "cgroups/pids"
    controller = "pids"

    def prepare(self, container: Container) -> Contribution:
        """The group with its limit, in force before the first process."""
        limit = container.config.resources.pids
        writes = () if limit is None else (WriteCgroup(controller="pids", file="pids.max", value=str(limit)),)
        notes = () if limit is None else (f"process limit: {limit}",)
        return Contribution(host=(*self.making(), *writes), steps=tuple(self.joining(container)), notes=notes)

    async def update(self, container: ContainerID, resources: Resources) -> None:
        """Put a new limit in force.  Below the present number nothing is killed, only no more is started."""
        value = "max" if resources.pids is None else str(resources.pids)
        limits.put(self.living(container), (("pids.max", value),))

    async def usage(self, container: ContainerID) -> Usage:
        """How many there are, were at most, may be, and how often one more was refused."""
        group = self.group(container)
        try:
            return Usage(
                pids=group.read_int("pids.current"),
                pids_peak=group.read_int("pids.peak") if group.has("pids.peak") else None,  # Linux 6.1
                pids_limit=group.read_limit("pids.max"),
                pids_refused=group.read_table("pids.events").get("max", 0),
            )
        except OSError:
            return Usage()

    async def status(self, container: ContainerID) -> Mapping[str, str]:
        """A sentence when the limit held processes back."""
        usage = await self.usage(container)
        if not usage.pids_refused:
            return {}
        refused = f"{usage.pids_refused} time{'' if usage.pids_refused == 1 else 's'}"
        return {"processes": f"the limit of {usage.pids_limit} refused a new process {refused}"}
