"""What one isolator adds to a launch plan."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from mesocosm.plan.host_steps import HostAction
from mesocosm.plan.operations import Step, VolumeStep


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an isolator wants to happen for one container.  Values only: nothing has been done yet.

    ``namespaces``  kinds to create: mnt, pid, ipc, uts, net, cgroup, user, time
    ``host``        steps on the host's side, before the fork
    ``steps``       steps of the child, in this isolator's order; phases come first
    ``volumes``     steps of the child that mount what somebody asked for: all isolators' together, after
                    ``steps`` of the first that has any, the nearer to the root the earlier
    ``environment`` ``KEY=VALUE`` strings below the request's and the image's own in priority
    ``warnings``    sentences for the container's status: what was asked but cannot be had in full
    ``notes``       short ``subject: value`` lines for the summary of ``run`` and ``explain``
    """

    namespaces: tuple[str, ...] = ()
    host: tuple[HostAction, ...] = ()
    steps: tuple[Step, ...] = ()
    volumes: tuple[VolumeStep, ...] = ()
    environment: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    NOTHING: ClassVar[Contribution]


Contribution.NOTHING = Contribution()
