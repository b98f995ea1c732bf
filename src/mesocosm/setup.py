"""From a recorded intent to a held child: what ``create`` does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from mesocosm import durable, host_steps, image_volumes, trace
from mesocosm.engine import Engine
from mesocosm.errors import Unsupported
from mesocosm.images.provisioner import Provision
from mesocosm.isolators import registry
from mesocosm.isolators.base import Container, ImageVolume, Isolator
from mesocosm.isolators.image.runtime import stop_signal
from mesocosm.isolators.volume.targets import normal
from mesocosm.launch.birth import Forked
from mesocosm.launch.launcher import OutputPaths
from mesocosm.lifecycle import Event
from mesocosm.model import ImageRuntime
from mesocosm.paths import ContainerPaths
from mesocosm.plan import LaunchPlan
from mesocosm.records import Intent, Process, Record


async def set_up(engine: Engine, record: Record, stdin: int | None) -> Record:
    """Take a container from PROVISIONING to CREATED.  Whatever fails is raised; the caller gives back.

    Its intent is settled, for the time after a power cut, while the child sets up: what was made in the
    kernel until then would not survive one either.
    """
    clock = _Clock()
    provision = await _provision(engine, record.intent)
    volumes = await image_volumes.provision(engine, record.intent)
    trace.point("setup.provisioned")
    clock.mark("image")
    plan = compose(engine, record.intent, provision, volumes)
    record = _prepared(engine, record, plan, provision, volumes)
    clock.mark("plan")
    host_steps.apply(plan.host, record.id, engine.host)
    trace.point("setup.host-steps-applied")
    clock.mark("host")
    async with _settled(engine, record.intent):
        forked = await _fork(engine, record, plan, stdin)
        await _isolate(engine, record, forked.pid)
    clock.mark("launch")
    return engine.records.advance(
        record,
        Event.FORKED,
        process=Process(pid=forked.pid, start_time=forked.start_time),
        supervisor=Process(pid=forked.supervisor, start_time=forked.supervisor_start_time),
        warnings=(*record.status.warnings, *forked.warnings),
        phases=clock.phases,
    )


@contextlib.asynccontextmanager
async def _settled(engine: Engine, intent: Intent) -> AsyncIterator[None]:
    """Settle the intent meanwhile.  Raises OSError when that fails and nothing else did."""
    settling = asyncio.ensure_future(asyncio.to_thread(engine.records.settle, intent))
    try:
        yield
    finally:
        await asyncio.wait([settling])
        failure = settling.exception()
    if failure is not None:
        raise failure


def compose(
    engine: Engine,
    intent: Intent,
    provision: Provision | None,
    volumes: tuple[ImageVolume, ...] = (),
    *,
    refused: Callable[[str, Unsupported], None] | None = None,
) -> LaunchPlan:
    """The launch plan of a container; reads the host, changes nothing.

    With ``refused`` an isolator that this host cannot serve is told there and left out, instead of raised.
    """
    container = Container(
        id=intent.id,
        config=intent.config,
        image=provision.runtime if provision else ImageRuntime(),
        root=provision.root if provision else None,
        volumes=volumes,
    )
    contributions = [("launch", host_steps.process_tree(container.id, engine.host))]
    for name in registry.choose(intent.config):
        try:
            contributions.append((name, engine.isolator(name).prepare(container)))
        except Unsupported as error:
            if refused is None:
                raise
            refused(name, error)
    return LaunchPlan.compose(str(container.id), contributions)


async def _provision(engine: Engine, intent: Intent) -> Provision | None:
    config = intent.config
    if config.image is None:
        return None
    return await engine.provisioner.provision(
        intent.id,
        config.image,
        pull=config.pull,
        platform=config.platform,
        backend=config.backend,
        read_only=config.read_only,
        changes=config.root_changes,
        idmap=config.idmap,
        scratch=engine.where(intent.id).scratch,
    )


def _prepared(
    engine: Engine,
    record: Record,
    plan: LaunchPlan,
    provision: Provision | None,
    volumes: tuple[ImageVolume, ...],
) -> Record:
    where = engine.where(record.id)
    where.sandbox.mkdir(mode=0o700, exist_ok=True)
    durable.replace(where.plan, plan.to_json())
    return engine.records.advance(
        record,
        Event.PROVISIONED,
        image=provision.identity if provision else None,
        volumes={normal(volume.mount.target): volume.identity for volume in volumes},
        isolation=tuple(part.isolator for part in plan.parts[1:]),
        stop_signal=stop_signal(record.config, provision.runtime if provision else ImageRuntime()),
        warnings=plan.warnings,
    )


async def _fork(engine: Engine, record: Record, plan: LaunchPlan, stdin: int | None) -> Forked:
    where = engine.where(record.id)
    forked = await engine.launcher.fork(
        plan,
        where.supervisor,
        output=output_of(where),
        stdin=stdin,
        cgroup=engine.birth_cgroup(record.id),
    )
    trace.point("setup.forked")
    return forked


async def _isolate(engine: Engine, record: Record, pid: int) -> None:
    for isolator in engine.isolators_of(record, acting=Isolator.isolate):
        await isolator.isolate(record.id, pid)
    trace.point("setup.isolated")


def output_of(where: ContainerPaths) -> OutputPaths:
    """Where the first process' output goes."""
    return OutputPaths(
        stdout=where.sandbox / "stdout", stderr=where.sandbox / "stderr", index=where.sandbox / "stdio.index"
    )


class _Clock:
    """Seconds from mark to mark."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, phase: str) -> None:
        now = time.monotonic()
        self.phases[phase] = now - self._last
        self._last = now
