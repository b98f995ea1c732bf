"""Operation kinds, contributions and the launch plan: pure data, no I/O."""

from mesocosm.plan.contribution import Contribution
from mesocosm.plan.host_steps import (
    AllowDevices,
    HostAction,
    MakeCgroup,
    MakeHostDirectory,
    WriteCgroup,
    WriteHostFile,
)
from mesocosm.plan.launch_plan import LaunchPlan, Part, merge_environment
from mesocosm.plan.operations import Phase, RootStep, Step, VolumeStep

__all__ = [
    "AllowDevices",
    "Contribution",
    "HostAction",
    "LaunchPlan",
    "MakeCgroup",
    "MakeHostDirectory",
    "Part",
    "Phase",
    "RootStep",
    "Step",
    "VolumeStep",
    "WriteCgroup",
    "WriteHostFile",
    "merge_environment",
]
