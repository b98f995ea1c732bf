"""Images to be mounted in a container: had, leased and assembled like its root (parity VOL, PRV-6)."""

from __future__ import annotations

from collections.abc import Iterator

from mesocosm import trace
from mesocosm.engine import Engine
from mesocosm.errors import Unsupported
from mesocosm.images.provisioner import Provision
from mesocosm.isolators.base import ImageVolume
from mesocosm.model import ContainerConfig, ContainerID, ImageMount
from mesocosm.plan.operations import BindRoot
from mesocosm.records import Intent


async def provision(engine: Engine, intent: Intent) -> tuple[ImageVolume, ...]:
    """Have every image that the request mounts, by its pull policy; the container's lease grows by each.

    Raises as `Provisioner.provision`, InvalidConfig for what is no image of layers.
    """
    scratch, config = engine.where(intent.id).volumes, intent.config
    volumes = []
    for number, mount in _asked(config):
        engine.provisioner.require_layers(mount.source)
        found = await engine.provisioner.provision(
            intent.id,
            mount.source,
            pull=config.pull,
            platform=mount.platform or config.platform,
            backend=config.backend,
            read_only=mount.read_only,
            idmap=config.idmap,
            scratch=scratch / str(number),
        )
        trace.point("image_volumes.provisioned")
        volumes.append(_volume(mount, found))
    return tuple(volumes)


async def preview(engine: Engine, container: ContainerID, config: ContainerConfig) -> tuple[ImageVolume, ...]:
    """Say what `provision` would, without changing anything.  NotFound for images that are not here."""
    scratch = engine.where(container).volumes
    volumes = []
    for number, mount in _asked(config):
        engine.provisioner.require_layers(mount.source)
        found = await engine.provisioner.preview(
            mount.source,
            platform=mount.platform or config.platform,
            backend=config.backend,
            read_only=mount.read_only,
            idmap=config.idmap,
            scratch=scratch / str(number),
        )
        volumes.append(_volume(mount, found))
    return tuple(volumes)


def _asked(config: ContainerConfig) -> Iterator[tuple[int, ImageMount]]:
    return enumerate(mount for mount in config.mounts if isinstance(mount, ImageMount))


def _volume(mount: ImageMount, found: Provision) -> ImageVolume:
    if not mount.read_only and isinstance(found.root, BindRoot) and found.root.read_only:
        raise Unsupported(
            f"image {mount.source} cannot be changed at {mount.target}: the bind backend only shows it",
            hint="leave rw out, or use another --backend",
        )
    return ImageVolume(mount=mount, identity=found.identity, root=found.root)
