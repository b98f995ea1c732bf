"""What a request would do on this host, without doing any of it.

The plan shown is the very value that ``create`` would hand to the launcher: it is composed by the same
function from the same contributions, and nothing here describes a step in words of its own.
"""

from __future__ import annotations

import time

import msgspec

from mesocosm import image_volumes
from mesocosm.engine import Engine
from mesocosm.errors import Unsupported
from mesocosm.images.provisioner import Provision
from mesocosm.isolators.volume.targets import normal
from mesocosm.linux.processes import boot_id
from mesocosm.model import ContainerConfig, ContainerID, ImageIdentity
from mesocosm.plan import LaunchPlan
from mesocosm.records import Intent
from mesocosm.setup import compose


class Refusal(msgspec.Struct, frozen=True):
    """One thing this kernel or these privileges will not do; ``isolator`` is who asked for it."""

    isolator: str
    message: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A request thought through: the image it resolves to, the plan, and what would be refused.

    ``volumes`` are the images to be mounted, by target.
    """

    image: ImageIdentity | None
    plan: LaunchPlan
    refusals: tuple[Refusal, ...] = ()
    volumes: dict[str, ImageIdentity] = {}


async def explain(engine: Engine, config: ContainerConfig) -> Explanation:
    """Think a request through.  Raises what ``create`` would raise for a request that makes no sense."""
    container = ContainerID.generate()
    provision = await _preview(engine, container, config)
    volumes = await image_volumes.preview(engine, container, config)
    intent = Intent(id=container, config=config, boot_id=boot_id(), created_at=time.time())
    refusals: list[Refusal] = []

    def refuse(isolator: str, error: Unsupported) -> None:
        refusals.append(Refusal(isolator, str(error)))

    plan = compose(engine, intent, provision, volumes, refused=refuse)
    warned = [Refusal(part.isolator, warning) for part in plan.parts for warning in part.warnings]
    return Explanation(
        image=provision.identity if provision else None,
        volumes={normal(volume.mount.target): volume.identity for volume in volumes},
        plan=plan,
        refusals=(*refusals, *warned),
    )


async def _preview(engine: Engine, container: ContainerID, config: ContainerConfig) -> Provision | None:
    if config.image is None:
        return None
    return await engine.provisioner.preview(
        config.image,
        platform=config.platform,
        backend=config.backend,
        read_only=config.read_only,
        changes=config.root_changes,
        idmap=config.idmap,
        scratch=engine.where(container).scratch,
    )
