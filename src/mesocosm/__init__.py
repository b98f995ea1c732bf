"""Mesocosm, a universal containerizer.

    import mesocosm

    done = mesocosm.run("host", ["echo", "hello"], memory="256M")        # for scripts

    async with mesocosm.Containerizer.open() as containerizer:           # for programs
        container = await containerizer.create(mesocosm.ContainerConfig(image="host", command=("true",)))
        await containerizer.start(container)
        termination = await containerizer.wait(container)

Nothing is imported before it is used: the launch side imports its own few modules through this package.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs 10 ms at every start of the launch side; type checkers know the name

if TYPE_CHECKING:
    from mesocosm.containerizer import Containerizer
    from mesocosm.errors import MesocosmError
    from mesocosm.model import (
        CapabilityRequest,
        ContainerConfig,
        ContainerID,
        HostPathMount,
        IDMap,
        IDRange,
        ImageMount,
        NamespaceModes,
        Resources,
        Rlimit,
        RootChanges,
        Termination,
        TmpfsMount,
        Usage,
        parse_idmap,
    )
    from mesocosm.scripting import Completed, Failed, run

_WHERE = {
    "CapabilityRequest": "mesocosm.model",
    "Completed": "mesocosm.scripting",
    "ContainerConfig": "mesocosm.model",
    "ContainerID": "mesocosm.model",
    "Containerizer": "mesocosm.containerizer",
    "Failed": "mesocosm.scripting",
    "HostPathMount": "mesocosm.model",
    "IDMap": "mesocosm.model",
    "IDRange": "mesocosm.model",
    "ImageMount": "mesocosm.model",
    "MesocosmError": "mesocosm.errors",
    "NamespaceModes": "mesocosm.model",
    "Resources": "mesocosm.model",
    "Rlimit": "mesocosm.model",
    "RootChanges": "mesocosm.model",
    "Termination": "mesocosm.model",
    "TmpfsMount": "mesocosm.model",
    "Usage": "mesocosm.model",
    "parse_idmap": "mesocosm.model",
    "run": "mesocosm.scripting",
}


def __getattr__(name: str) -> object:
    """The public names, each from its module, on first use (PEP 562)."""
    import importlib

    if name not in _WHERE:
        raise AttributeError(f"module 'mesocosm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


__all__ = [
    "CapabilityRequest",
    "Completed",
    "ContainerConfig",
    "ContainerID",
    "Containerizer",
    "Failed",
    "HostPathMount",
    "IDMap",
    "IDRange",
    "ImageMount",
    "MesocosmError",
    "NamespaceModes",
    "Resources",
    "Rlimit",
    "RootChanges",
    "Termination",
    "TmpfsMount",
    "Usage",
    "parse_idmap",
    "run",
]
