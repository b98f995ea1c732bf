"""Frozen values that every part shares.  No I/O; imports nothing of ours but the errors."""

from mesocosm.model.config import (
    CapabilityRequest,
    ContainerConfig,
    HostPathMount,
    ImageMount,
    Mount,
    NamespaceModes,
    Rlimit,
    RootChanges,
    TmpfsMount,
)
from mesocosm.model.idmap import IDMap, IDRange, parse_idmap
from mesocosm.model.ids import ContainerID, check_name
from mesocosm.model.image import ImageIdentity, ImageRuntime
from mesocosm.model.resources import Resources
from mesocosm.model.termination import Exit, Limitation, Reason, Termination
from mesocosm.model.usage import Usage

__all__ = [
    "CapabilityRequest",
    "ContainerConfig",
    "ContainerID",
    "Exit",
    "HostPathMount",
    "IDMap",
    "IDRange",
    "ImageIdentity",
    "ImageMount",
    "ImageRuntime",
    "Limitation",
    "Mount",
    "NamespaceModes",
    "Reason",
    "Resources",
    "Rlimit",
    "RootChanges",
    "Termination",
    "TmpfsMount",
    "Usage",
    "check_name",
    "parse_idmap",
]
