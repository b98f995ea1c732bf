"""What this host is and can do, probed once."""

from __future__ import annotations

import os
import platform

import msgspec

from mesocosm.linux.cgroups import CgroupTree
from mesocosm.paths import Paths


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Facts that isolators decide by.

    ``kernel`` major and minor version, ``capabilities`` our own bounding set as a mask (the ceiling of what a
    container can get), ``root`` whether we are root in the initial user namespace.
    """

    paths: Paths
    cgroups: CgroupTree
    kernel: tuple[int, int]
    capabilities: int
    root: bool

    @classmethod
    def probe(cls, paths: Paths) -> Host:
        """Look at the running kernel and this process' privileges."""
        from mesocosm.linux.capabilities import bounding_set  # noqa: PLC0415

        major, minor = (int(part) for part in platform.release().split("-")[0].split(".")[:2])
        return cls(
            paths=paths,
            cgroups=CgroupTree.detect(parent=paths.cgroup_parent),
            kernel=(major, minor),
            capabilities=bounding_set(),
            root=os.geteuid() == 0,
        )
