"""Where a container's root lies on the host, so that it can be read from outside."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec

from mesocosm import durable
from mesocosm.engine import Engine
from mesocosm.errors import InvalidConfig, WrongState
from mesocosm.images import root_changes
from mesocosm.images.backends.copy import COPY
from mesocosm.images.copy_diff import CopyDiff
from mesocosm.images.image import ImageRecord
from mesocosm.images.layered import Layered
from mesocosm.images.root_diff import RootDiff
from mesocosm.lifecycle import State
from mesocosm.model import ContainerID
from mesocosm.model.idmap import IDMap
from mesocosm.plan import LaunchPlan, RootStep
from mesocosm.plan.operations import BindMount, BindRoot, HostRoot, MountFilesystem, MountImage, OverlayRoot
from mesocosm.records import Record

_LIVING = (State.CREATED, State.RUNNING)
_OWN_MOUNTS = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


class ContainerRoot(msgspec.Struct, frozen=True, kw_only=True):
    """The root of one container.

    ``image``, asked for as ``reference``, is what it was made of, by ``backend`` (None: the host's best).
    ``directories`` are those that the root is laid together of, top first; the topmost has the changes, and
    nothing else, unless the root is a copy of ``copied``, the directories of the image's layers.  ``mounts``
    are paths in it that something lies on, ``owners`` the mapping of what was written to it.  ``lives`` until
    the container ends; else it was kept (``--root-changes``).
    """

    container: ContainerID
    image: ImageRecord
    reference: str
    backend: str | None
    directories: tuple[Path, ...]
    copied: tuple[Path, ...] | None
    mounts: tuple[str, ...]
    owners: IDMap | None
    lives: bool

    @contextlib.contextmanager
    def opened(self) -> Iterator[Layered]:
        """The directories, to be read; blocking.  WrongState when they have gone with the container's end."""
        with contextlib.ExitStack() as stack:
            try:
                root = stack.enter_context(Layered.open(self.directories, self.owners))
            except FileNotFoundError as error:
                raise _gone(self.container) from error
            yield root

    @contextlib.contextmanager
    def compared(self, stopped: threading.Event) -> Iterator[RootDiff]:
        """What differs from the image, to be read; blocking.  Raises what `opened` does."""
        with self.opened() as root:
            mounts = {root.resolve(target) for target in self.mounts}
            if self.copied is None:
                yield RootDiff(root, mounts, stopped)
                return
            with Layered.open((*self.directories, *self.copied), self.owners) as beside:
                yield CopyDiff(beside, mounts, stopped)


@contextlib.asynccontextmanager
async def root_of(engine: Engine, container: ContainerID) -> AsyncIterator[ContainerRoot]:
    """The container's root, with its image leased as long as the context lasts.

    Raises InvalidConfig where its root is no image of layers, WrongState, NotFound where it is gone.
    """
    record = engine.records.load(container)
    digest = _digest(record)
    async with engine.provisioner.leased(digest) as image:
        plan = _plan(engine, container)
        lives = record.state in _LIVING
        step = _root_step(plan) if lives else await _kept(engine, record, image)
        if step is None:
            raise _gone(container)
        scratch = engine.where(container).scratch
        copied = await engine.provisioner.trees(image) if _is_copy(step, scratch) else None
        told = record.status.image
        yield ContainerRoot(
            container=container,
            image=image,
            reference=told.reference if told and told.digest == digest else digest,
            backend=record.config.backend,
            directories=_directories(step),
            copied=copied,
            mounts=_mounts(record, plan),
            owners=_owners(step, record.config.idmap),
            lives=lives,
        )


def require_still_there(engine: Engine, root: ContainerRoot) -> None:
    """Raise WrongState when the root that has been read was given back, or given on, meanwhile."""
    record = engine.records.load(root.container)
    if not root.lives:
        _digest(record)
    elif record.state not in _LIVING:
        raise WrongState(
            f"container {root.container} ended while its root was read",
            hint="keep it with --root-changes, or pause it meanwhile",
        )


def _digest(record: Record) -> str:
    """The manifest's digest of the image that the root was made of, the root being there."""
    if record.config.image is None:
        raise InvalidConfig(
            f"container {record.id} has no root of its own: it runs on the host's file system",
            hint="give it an image",
        )
    if record.state is State.DESTROYED:
        changes = record.config.root_changes
        if changes is None:
            raise _gone(record.id)
        return root_changes.kept_for(Path(changes.path), str(record.id)).digest
    if record.state not in _LIVING:
        raise WrongState(f"container {record.id} {record.state.words}, its root cannot be read")
    image = record.status.image
    if image is None or image.digest is None:
        raise InvalidConfig(
            f"the root of container {record.id} is {record.config.image}, no image of layers",
            hint="import it as an image first",
        )
    return image.digest


def _gone(container: ContainerID) -> WrongState:
    return WrongState(
        f"the root of container {container} went with its end",
        hint="do it while it runs, or keep what it changes: --root-changes",
    )


async def _kept(engine: Engine, record: Record, image: ImageRecord) -> RootStep | None:
    changes = record.config.root_changes
    if changes is None:
        return None
    config = record.config
    return await engine.provisioner.again(
        image, Path(changes.path), backend=config.backend, idmap=config.idmap
    )


def _plan(engine: Engine, container: ContainerID) -> LaunchPlan | None:
    """The plan as it was run; it goes with a restart of the host."""
    try:
        return LaunchPlan.from_json(durable.read(engine.where(container).plan))
    except FileNotFoundError:
        return None


def _root_step(plan: LaunchPlan | None) -> RootStep | None:
    steps = plan.steps if plan is not None else ()
    return next((step for step in steps if isinstance(step, OverlayRoot | BindRoot | HostRoot)), None)


def _owners(step: RootStep, idmap: IDMap | None) -> IDMap | None:
    """Layers are mapped by their mounts, and so is a tree that is the whole root; what was written for the
    container, an upper layer or a copy, has the host's IDs.
    """
    return None if isinstance(step, BindRoot) and step.idmap is not None else idmap


def _is_copy(step: RootStep, scratch: Path) -> bool:
    """Whether the root is the container's own, and not for want of layers (stacking.py)."""
    return isinstance(step, BindRoot) and Path(step.source) == scratch / COPY


def _directories(step: RootStep) -> tuple[Path, ...]:
    if isinstance(step, OverlayRoot):
        return tuple(map(Path, (*filter(None, (step.upper,)), *step.layers)))
    if isinstance(step, BindRoot):
        return (Path(step.source),)
    raise InvalidConfig("the host's own root is no image of layers", hint="give an image")


def _mounts(record: Record, plan: LaunchPlan | None) -> tuple[str, ...]:
    if plan is None:
        return (*_OWN_MOUNTS, *(mount.target for mount in record.config.mounts))
    return tuple(
        step.target for step in plan.steps if isinstance(step, BindMount | MountFilesystem | MountImage)
    )
