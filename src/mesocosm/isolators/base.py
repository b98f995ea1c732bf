"""The isolator contract.

An isolator owns one kind of isolation, and nobody else touches that.  It never sets a payload up itself: it
contributes steps to the launch plan, and it asks the kernel when it is asked.  Three scenarios show the whole
contract.

*A container starts.*  ``prepare`` is called on every isolator in order and answers a Contribution: pure
data, derived from the container's ID, its configuration and the image.  Nothing has been done yet, which is
why ``mesocosm explain`` can call it too.  The containerizer applies the host's steps, the launcher forks the
child and holds it, and ``isolate`` is called on every isolator with the child's pid, for what can only be
done then.

*It runs.*  ``watch`` waits until a limit that ends the container is reached, ``reached`` tells afterwards;
``usage`` and ``status`` answer their part at once; ``update`` changes limits, up and down, and leaves the old
ones in force when it fails.

*It ends.*  All processes are gone; ``cleanup`` is called in reverse order, gives back everything named after
the ID, and may be called twice, for a half-prepared container, or for one it has never seen.

Isolators ask the kernel rather than remember: after a crash a new instance must know as much as the old one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec

from mesocosm.model import (
    ContainerConfig,
    ContainerID,
    ImageIdentity,
    ImageMount,
    ImageRuntime,
    Limitation,
    Resources,
    Usage,
)
from mesocosm.paths import Paths
from mesocosm.plan import Contribution, RootStep

if TYPE_CHECKING:
    from mesocosm.isolators.host import Host


class ImageVolume(msgspec.Struct, frozen=True, kw_only=True):
    """An image that a mount of the request asks for: which one it is, and how its files are assembled."""

    mount: ImageMount
    identity: ImageIdentity
    root: RootStep


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """What an isolator may know of a container when it prepares.

    ``root`` is the step that assembles the root file system, None without an image; ``image`` what the image
    says of its process, ``volumes`` the images to be mounted.
    """

    id: ContainerID
    config: ContainerConfig
    image: ImageRuntime = ImageRuntime()
    root: RootStep | None = None
    volumes: tuple[ImageVolume, ...] = ()


class Isolator:
    """Base of all isolators: everything but ``name`` has a default, a file holds only its difference."""

    name: ClassVar[str]
    """The isolator's name, which is its path: ``cgroups/cpu``."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Names of isolators that must be chosen too and stand earlier."""
    nested: ClassVar[bool] = False
    """Whether it acts on nested containers."""

    def __init__(self, host: Host) -> None:
        self.host = host

    @property
    def paths(self) -> Paths:
        """Where files of containers lie."""
        return self.host.paths

    @classmethod
    def create(cls, host: Host) -> Isolator:
        """An instance for this host; touches nothing.  Raises Unsupported with a hint when it cannot be."""
        return cls(host)

    async def recover(self, containers: Iterable[Container], orphans: Iterable[ContainerID]) -> None:
        """Learn what runs after a restart; changes nothing on healthy containers."""

    def prepare(self, container: Container) -> Contribution:
        """What this isolator adds to the container's launch plan.  Reads the host, changes nothing.

        Raises InvalidConfig when the request makes no sense, Unsupported when this host cannot.
        """
        del container
        return Contribution.NOTHING

    async def isolate(self, container: ContainerID, pid: int) -> None:
        """Act on the forked, held child ``pid``; not dependent on another isolator's private state."""

    async def reached(self, container: ContainerID) -> Limitation | None:
        """A limit that was reached while nobody watched, answered at once; None when there was none."""
        del container
        return None

    async def watch(self, container: ContainerID) -> Limitation:
        """Wait until a limit that must end the container is reached, at once when it was before.

        Never returns otherwise; survives being cancelled and called again.
        """
        del container
        while True:
            await asyncio.Event().wait()

    async def update(self, container: ContainerID, resources: Resources) -> None:
        """Put new limits in force.  None in ``resources`` lifts a limit.  On failure the old ones stand."""

    async def usage(self, container: ContainerID) -> Usage:
        """This isolator's part of a reading; empty for a container that is gone."""
        del container
        return Usage()

    async def status(self, container: ContainerID) -> Mapping[str, str]:
        """This isolator's part of a report: short keys and values."""
        del container
        return {}

    async def cleanup(self, container: ContainerID) -> None:
        """Give everything back.  All processes are gone.  Idempotent, and fine for unknown IDs."""
