"""No root file system: the container works on the host's own files, from its sandbox.

What needs a mount cannot be had: volumes, a read-only root.
"""

from __future__ import annotations

from mesocosm.errors import InvalidConfig
from mesocosm.isolators.base import Container, Isolator
from mesocosm.plan import Contribution, MakeHostDirectory
from mesocosm.plan.operations import SetUmask


class PosixFilesystem(Isolator):
    """The host's file system, unchanged."""

    name = "filesystem/posix"

    def prepare(self, container: Container) -> Contribution:
        """The sandbox to work in.  Raises InvalidConfig for what only a root of its own can have."""
        if container.root is not None:
            raise InvalidConfig("filesystem/posix has no use for an image", hint="choose filesystem/linux")
        if container.config.mounts or container.config.read_only:
            what = "a volume" if container.config.mounts else "a read-only root"
            raise InvalidConfig(
                f"{what} needs a root file system of the container's own", hint="give an image, such as host"
            )
        sandbox = self.paths.container(container.id).sandbox
        return Contribution(
            host=(MakeHostDirectory(path=str(sandbox)),), steps=(SetUmask(),), notes=("root: the host's own",)
        )
