"""Control groups on v1, hybrid and v2 hosts behind one interface.  cgroups(7), the kernel's cgroup-v2.rst.

`Layout` tells which hierarchy serves which controller, `CgroupTree` owns the directories of all containers,
`Cgroup` is one directory.  For the agent; the launch side gets plain paths to write to.
"""

from mesocosm.linux.cgroups.group import Cgroup
from mesocosm.linux.cgroups.layout import Hierarchy, Layout
from mesocosm.linux.cgroups.tree import CgroupTree, JoinTargets

__all__ = ["Cgroup", "CgroupTree", "Hierarchy", "JoinTargets", "Layout"]
