"""The containerizer: the order of events, and nothing else.

    create(config)                                         start(id)
      record: PROVISIONING           (intent first)          the gate opens; exec's error pipe closes
      provision the image → how the root is assembled        record: RUNNING
      prepare × isolators → LaunchPlan                       a guard waits for the end
      record: PREPARED
      apply the plan's host steps                          destroy(id)
      fork: supervisor and child, held                       record: DESTROYING
      isolate × isolators                                    kill everything, clean up in reverse order
      record: CREATED                                        record: DESTROYED, with the termination

Everything that changes a container happens under its lock, so any number of processes can work on the same
containers without a daemon, and each finishes what another one left undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Self

import msgspec

from mesocosm import durable, trace
from mesocosm.conclusion import holding
from mesocosm.engine import Engine
from mesocosm.errors import (
    Corrupt,
    InvalidConfig,
    LaunchError,
    MesocosmError,
    NotFound,
    Unavailable,
    WrongState,
)
from mesocosm.explanation import Explanation, explain
from mesocosm.guard import watch_over
from mesocosm.images.progress import Report as ProgressReport
from mesocosm.images.progress import silent
from mesocosm.images.provisioner import Provisioner
from mesocosm.isolators import registry
from mesocosm.isolators.base import Isolator
from mesocosm.isolators.host import Host
from mesocosm.launch import failures
from mesocosm.launch.launcher import Launcher
from mesocosm.lifecycle import Event, State
from mesocosm.linux.processes import boot_id
from mesocosm.looking import Looking
from mesocosm.model import ContainerConfig, ContainerID, Reason, Resources, Termination
from mesocosm.paths import ROOT, RUNTIME, Paths
from mesocosm.plan import LaunchPlan
from mesocosm.records import Intent, Record
from mesocosm.recovery import Recovery, recover
from mesocosm.root_files import RootFiles
from mesocosm.session import Session
from mesocosm.setup import set_up
from mesocosm.teardown import purge, tear_down


class Containerizer(Looking, RootFiles):
    """Containers below one pair of roots.

        async with Containerizer.open() as containerizer:
            container = await containerizer.create(ContainerConfig(image="host", command=("true",)))
            await containerizer.start(container)
            termination = await containerizer.wait(container)

    Containers outlive this object and its process.  Images are at ``images``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._guards: dict[ContainerID, asyncio.Task[Termination]] = {}
        self._creating: dict[ContainerID, asyncio.Task[object]] = {}
        self.recovered = Recovery()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        *,
        root: Path = ROOT,
        runtime: Path = RUNTIME,
        progress: ProgressReport = silent,
        warm: bool = True,
    ) -> AsyncIterator[Self]:
        """A containerizer on these roots, recovered; what recovery found is in ``recovered``.

        With ``warm`` the process that containers are forked from starts meanwhile, else with the first of
        them: for those who only look.  Raises Unsupported where the host cannot run containers, as ``create``
        does, with what to do about it.
        """
        paths = Paths(Path(os.path.abspath(root)), Path(os.path.abspath(runtime)))  # noqa: PTH100
        durable.private_directory(paths.running)
        with contextlib.suppress(Unavailable):  # a root that is mounted read-only can be looked at
            durable.require_writable(paths.root)
            durable.private_directory(paths.containers)
        async with (
            Launcher.open(runtime=paths.runtime) as launcher,
            Provisioner.open(paths, progress=progress, holds=holding(paths)) as provisioner,
        ):
            if warm:
                launcher.warm()
            containerizer = cls(Engine(Host.probe(paths), provisioner, launcher))
            try:
                containerizer.recovered = await recover(containerizer._engine)
                yield containerizer
            finally:
                await containerizer._let_go()

    @property
    def paths(self) -> Paths:
        """Where everything lies."""
        return self._engine.paths

    @property
    def host(self) -> Host:
        """What the host can do."""
        return self._engine.host

    @property
    def images(self) -> Provisioner:
        """The image side: pull, list, inspect, remove."""
        return self._engine.provisioner

    # ── starting ────────────────────────────────────────────────────────────────────────────────────────

    async def create(
        self, config: ContainerConfig, *, container: ContainerID | None = None, stdin: int | None = None
    ) -> ContainerID:
        """Set a container up and hold it before its first instruction (state CREATED).

        ``stdin`` is a descriptor for the payload to read from; None is the null device.  On any failure,
        cancellation included, everything is given back, the record too, and the cause is raised; a step
        between fork and exec that fails raises LaunchError (GAP-44).
        """
        container = container or ContainerID.generate()
        durable.require_writable(self.paths.containers)
        async with self._engine.locked(container, create=True):
            intent = Intent(id=container, config=config, boot_id=boot_id(), created_at=time.time())
            record = self._engine.records.create(intent)
            trace.point("containerizer.recorded")
            try:
                with self._interruptible(container):
                    await set_up(self._engine, record, stdin)
            except BaseException:
                await asyncio.shield(self._abandon(container))
                raise
        trace.point("containerizer.created")
        return container

    async def start(self, container: ContainerID) -> None:
        """Let a created container's payload begin.

        Raises LaunchError when it cannot be executed; the container is then destroyed with reason ``failed``.
        """
        async with self._engine.locked(container):
            record = self._engine.records.load(container)
            if record.state is not State.CREATED:
                raise WrongState(f"container {container} {record.state.words}, it cannot be started")
            began = time.monotonic()
            try:
                await self._engine.launcher.start(self._engine.where(container).supervisor)
            except LaunchError as error:
                named = self._named(container, error)
                ending = Termination(reason="failed", message=str(named))
                await asyncio.shield(tear_down(self._engine, container, ending))
                raise named from error
            trace.point("containerizer.started")
            phases = {**record.status.phases, "start": time.monotonic() - began}
            self._engine.records.advance(record, Event.STARTED, started_at=time.time(), phases=phases)
        self._guard(container)

    async def execute(
        self,
        container: ContainerID,
        arguments: Sequence[str],
        *,
        environment: Sequence[str] = (),
        workdir: str | None = None,
        user: str | None = None,
        stdin: int | None = None,
    ) -> Session:
        """Start a further process inside exactly the container's isolation: the same way in, as data."""
        record = self._running(container)
        process = record.status.process
        if process is None or not arguments:
            raise InvalidConfig("nothing to execute", hint="give a command after the container")
        plan = LaunchPlan.from_json(durable.read(self._engine.where(container).plan)).entering(
            pid=process.pid,
            start_time=process.start_time,
            arguments=tuple(arguments),
            environment=tuple(environment),
            workdir=workdir,
            user=user,
        )
        session = Session(self._engine.launcher, self._engine.where(container).session(os.urandom(6).hex()))
        await session.begin(plan, stdin=stdin, cgroup=self._engine.birth_cgroup(container))
        return session

    async def explain(self, config: ContainerConfig) -> Explanation:
        """What ``create`` and ``start`` would do, and this host refuse, without doing any of it."""
        return await explain(self._engine, config)

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────

    async def wait(self, container: ContainerID) -> Termination:
        """The container's end, as soon as it has been cleaned up; at once when it ended before (API-7)."""
        if container not in self._guards:
            record = self._engine.records.load(container)
            if record.termination is not None:
                return record.termination
        return await asyncio.shield(self._guard(container))

    async def kill(self, container: ContainerID, number: int) -> None:
        """Send a signal to the first process.  Raises WrongState when there is none (API-9)."""
        self._running(container)
        if not await self._engine.launcher.signal(self._engine.where(container).supervisor, number):
            raise WrongState(f"container {container} has just ended, there is no process to signal")

    async def stop(
        self, container: ContainerID, *, number: int | None = None, grace: float | None = None
    ) -> Termination:
        """Ask with a signal, wait ``grace`` seconds, then destroy (GAP-50).

        Both default to what the request or the image says, else SIGTERM and 10 s.
        """
        record = self._engine.records.load(container)
        if record.termination is not None:
            return record.termination
        grace = record.config.stop_timeout if grace is None else grace
        try:
            await self.kill(container, number or record.status.stop_signal)
        except WrongState:
            return await self.destroy(container)
        ended = asyncio.ensure_future(self.wait(container))
        done, _ = await asyncio.wait({ended}, timeout=grace)
        if done:
            return await ended
        ended.cancel()
        return await self.destroy(container, message=f"killed, it had not stopped within {grace:g} s")

    async def update(self, container: ContainerID, resources: Resources) -> None:
        """Put new limits in force; when one isolator fails, the others go back (API-4, GAP-4).

        Raises InvalidConfig for a limit that none of the container's isolators would hold it to.
        """
        async with self._engine.locked(container):
            record = self._engine.records.load(container)
            if record.state not in (State.CREATED, State.RUNNING):
                raise WrongState(f"container {container} {record.state.words}, its limits cannot be changed")
            registry.check_requests(
                record.status.isolation, msgspec.structs.replace(record.config, resources=resources)
            )
            before = record.status.resources or record.config.resources
            changed: list[Isolator] = []
            try:
                for isolator in self._engine.isolators_of(record):
                    changed.append(isolator)
                    await isolator.update(container, resources)
            except BaseException:
                for isolator in reversed(changed):
                    with contextlib.suppress(MesocosmError, OSError):
                        await isolator.update(container, before)
                raise
            self._engine.records.note(record, resources=resources)

    # ── ending ──────────────────────────────────────────────────────────────────────────────────────────

    async def destroy(
        self, container: ContainerID, *, reason: Reason = "asked", message: str = ""
    ) -> Termination:
        """End it whatever its state, and give everything back (DES-1 … DES-11).

        Idempotent: an ended container answers its termination.  Raises CleanupError when something could not
        be given back after several attempts; the container then stays DESTROYING and says why in its status,
        and the next attempt, of any process, goes on with it (GAP-40).
        """
        setting_up = self._creating.get(container)
        if setting_up is not None:
            setting_up.cancel()
        async with self._engine.locked(container):
            return await tear_down(self._engine, container, Termination(reason=reason, message=message))

    async def remove(self, container: ContainerID, *, force: bool = False) -> None:
        """Forget an ended container.

        With ``force`` it is ended first, even one whose record cannot be read, and it may be gone already.
        """
        try:
            async with self._engine.locked(container):
                await self._remove(container, force)
        except NotFound:
            if not force:
                raise

    async def _remove(self, container: ContainerID, force: bool) -> None:
        try:
            record = self._engine.records.load(container)
        except (Corrupt, NotFound):
            if not force:
                raise
            await purge(self._engine, container)
            return
        if record.state is not State.DESTROYED:
            if not force:
                raise WrongState(f"container {container} {record.state.words}", hint="stop it, or use force")
            await tear_down(self._engine, container, Termination(reason="asked"), forget=True)
        self._engine.records.remove(container)

    async def _abandon(self, container: ContainerID) -> None:
        """A container that never was held leaves nothing, not even its record."""
        await tear_down(self._engine, container, Termination(reason="failed"))
        self._engine.records.remove(container)

    # ── of this process ─────────────────────────────────────────────────────────────────────────────────

    def _named(self, container: ContainerID, error: LaunchError) -> LaunchError:
        """The failure of the last step, in that step's words."""
        try:
            return failures.executing(self.plan(container), error)
        except (NotFound, Corrupt):
            return error

    def _running(self, container: ContainerID) -> Record:
        record = self._engine.records.load(container)
        if record.state is not State.RUNNING:
            raise WrongState(f"container {container} {record.state.words}, it must be running")
        return record

    def _guard(self, container: ContainerID) -> asyncio.Task[Termination]:
        guard = self._guards.get(container)
        if guard is None:
            guard = asyncio.create_task(watch_over(self._engine, container), name=f"guard {container}")
            self._guards[container] = guard
            guard.add_done_callback(lambda _: self._guards.pop(container, None))
        return guard

    @contextlib.contextmanager
    def _interruptible(self, container: ContainerID) -> Iterator[None]:
        """While it is being set up, ``destroy`` interrupts rather than waits (DES-4, DES-5)."""
        task = asyncio.current_task()
        if task is not None:
            self._creating[container] = task
        try:
            yield
        finally:
            self._creating.pop(container, None)

    async def _let_go(self) -> None:
        for guard in list(self._guards.values()):
            guard.cancel()
        await asyncio.gather(*self._guards.values(), return_exceptions=True)
        await self._engine.quiet()
        with contextlib.suppress(OSError):
            self.host.cgroups.remove_parent()  # stays while a container is in it
