"""The containerizer: the order of events, and nothing else.

    create(id, config)                                     start(id)
      record: PROVISIONING           (intent first)          the gate opens; exec's error pipe closes
      provision the image → how the root is assembled        record: RUNNING
      prepare × isolators → LaunchPlan                       a guard waits for the end
      record: PREPARED
      apply the plan's host steps                          destroy(id)
      fork: supervisor and child, held                       record: DESTROYING
      isolate × isolators                                    kill everything, clean up in reverse order
      record: CREATED                                        record: DESTROYED, with the termination

Everything that changes a container happens under its lock, so any number of processes can work on the same
containers without a daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Self

import msgspec

from mesocosm import durable, host_steps, logs, trace
from mesocosm.errors import CleanupError, InvalidConfig, LaunchError, MesocosmError, NotFound, WrongState
from mesocosm.explanation import Explanation, explain
from mesocosm.images.progress import Progress, silent
from mesocosm.images.provisioner import Provision, Provisioner
from mesocosm.isolators import registry
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.host import Host
from mesocosm.launch.launcher import Launcher, OutputPaths
from mesocosm.lifecycle import Event, State
from mesocosm.linux.processes import boot_id
from mesocosm.model import (
    ContainerConfig,
    ContainerID,
    Exit,
    ImageRuntime,
    Limitation,
    Reason,
    Resources,
    Termination,
    Usage,
)
from mesocosm.paths import ROOT, RUNTIME, ContainerPaths, Paths
from mesocosm.plan import Contribution, LaunchPlan
from mesocosm.records import Intent, Process, Record, Records
from mesocosm.session import Session

CLEANUP_ATTEMPTS = 4
CLEANUP_BACKOFF = 0.1  # seconds before the second attempt, doubled each time


class Containerizer:
    """Containers below one pair of roots.

        async with Containerizer.open() as containerizer:
            container = await containerizer.create(ContainerConfig(image="host", command=("true",)))
            await containerizer.start(container)
            termination = await containerizer.wait(container)

    Containers outlive this object and its process.
    """

    def __init__(self, host: Host, provisioner: Provisioner, launcher: Launcher) -> None:
        self.host = host
        self.paths = host.paths
        self.records = Records(host.paths)
        self.provisioner = provisioner
        self._launcher = launcher
        self._isolators: dict[str, Isolator] = {}
        self._guards: dict[ContainerID, asyncio.Task[Termination]] = {}
        self._creating: dict[ContainerID, asyncio.Task[object]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, *, root: Path = ROOT, runtime: Path = RUNTIME, progress: Progress = silent, recover: bool = True
    ) -> AsyncIterator[Self]:
        """A containerizer on these roots, recovered.  Raises Unsupported where the host cannot."""
        paths = Paths(root.absolute(), runtime.absolute())
        for directory in (paths.containers, paths.running):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        host = Host.probe(paths)
        async with (
            Launcher.open(runtime=paths.runtime) as launcher,
            Provisioner.open(paths, progress=progress) as provisioner,
        ):
            containerizer = cls(host, provisioner, launcher)
            try:
                if recover:
                    await containerizer.recover()
                yield containerizer
            finally:
                await containerizer._let_go()

    # ── starting ────────────────────────────────────────────────────────────────────────────────────────

    async def create(
        self, config: ContainerConfig, *, container: ContainerID | None = None, stdin: int | None = None
    ) -> ContainerID:
        """Set a container up and hold it before its first instruction (state CREATED).

        ``stdin`` is a descriptor for the payload to read from, not its owner's terminal; None is the null
        device.  On any failure, cancellation included, everything is given back, the record too, and the
        cause is raised; a step between fork and exec that fails raises LaunchError (GAP-44).
        """
        container = container or ContainerID.generate()
        async with self._locked(container):
            record = self.records.create(
                Intent(id=container, config=config, boot_id=boot_id(), created_at=time.time())
            )
            try:
                with self._interruptible(container):
                    await self._set_up(record, stdin)
            except BaseException:
                await asyncio.shield(self._abandon(container))
                raise
        return container

    async def start(self, container: ContainerID) -> None:
        """Let a created container's payload begin.

        Raises LaunchError when it cannot be executed; the container is then destroyed with reason ``failed``.
        """
        async with self._locked(container):
            record = self.records.load(container)
            if record.state is not State.CREATED:
                raise WrongState(
                    f"container {container} is {record.state}, only a created one can be started"
                )
            began = time.monotonic()
            try:
                await self._launcher.start(self.paths.container(container).supervisor)
            except LaunchError as error:
                await asyncio.shield(self._end(container, Termination(reason="failed", message=str(error))))
                raise
            trace.point("containerizer.started")
            phases = {**record.status.phases, "start": time.monotonic() - began}
            self.records.advance(record, Event.STARTED, started_at=time.time(), phases=phases)
        self._guard(container)

    async def _set_up(self, record: Record, stdin: int | None) -> None:
        clock = _Clock()
        provision = await self._provision(record)
        trace.point("containerizer.provisioned")
        clock.mark("image")
        chosen = [self._isolator(name) for name in registry.choose(record.config)]
        container = _describe(record, provision)
        plan = self._compose(container, chosen)
        record = self._prepared(record, plan, provision)
        clock.mark("plan")
        host_steps.apply(plan.host, record.id, self.host)
        trace.point("containerizer.host-steps-applied")
        clock.mark("host")
        record = await self._fork(record, plan, stdin)
        for isolator in chosen:
            await isolator.isolate(record.id, _pid(record))
        trace.point("containerizer.isolated")
        clock.mark("launch")
        self.records.advance(record, Event.FORKED, phases=clock.phases)

    async def _provision(self, record: Record) -> Provision | None:
        config = record.config
        if config.image is None:
            return None
        return await self.provisioner.provision(
            record.id,
            config.image,
            pull=config.pull,
            platform=config.platform,
            backend=config.backend,
            read_only=config.read_only,
            scratch=self.paths.container(record.id).scratch,
        )

    def _compose(self, container: Container, chosen: Sequence[Isolator]) -> LaunchPlan:
        contributions = [("launch", host_steps.process_tree(container.id, self.host))]
        contributions += [(isolator.name, isolator.prepare(container)) for isolator in chosen]
        return LaunchPlan.compose(str(container.id), contributions)

    def _prepared(self, record: Record, plan: LaunchPlan, provision: Provision | None) -> Record:
        where = self.paths.container(record.id)
        where.sandbox.mkdir(mode=0o700, exist_ok=True)
        durable.write(where.plan, plan.to_json())
        return self.records.advance(
            record,
            Event.PROVISIONED,
            image=provision.identity if provision else None,
            isolation=tuple(part.isolator for part in plan.parts[1:]),
            warnings=plan.warnings,
        )

    async def _fork(self, record: Record, plan: LaunchPlan, stdin: int | None) -> Record:
        where = self.paths.container(record.id)
        forked = await self._launcher.fork(
            plan,
            where.supervisor,
            output=_output(where.sandbox),
            stdin=stdin,
            cgroup=self.host.cgroups.tree_path(str(record.id)),
        )
        trace.point("containerizer.forked")
        return self.records.note(
            record,
            process=Process(pid=forked.pid, start_time=forked.start_time),
            supervisor=Process(pid=forked.supervisor_pid, start_time=forked.supervisor_start_time),
            warnings=(*record.status.warnings, *forked.warnings),
        )

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────

    async def wait(self, container: ContainerID) -> Termination:
        """The container's end, as soon as it has been cleaned up; at once when it ended before (API-7)."""
        with contextlib.suppress(NotFound):
            record = self.records.load(container)
            if record.termination is not None:
                return record.termination
        return await asyncio.shield(self._guard(container))

    async def kill(self, container: ContainerID, number: int) -> None:
        """Send a signal to the first process.  Raises WrongState when there is none."""
        record = self.records.load(container)
        sent = record.state is State.RUNNING and await self._launcher.signal(
            self.paths.container(container).supervisor, number
        )
        if not sent:
            raise WrongState(f"container {container} is {record.state}, it has no process to signal")

    async def stop(self, container: ContainerID, *, number: int, timeout: float) -> Termination:  # noqa: ASYNC109
        """Ask with a signal, wait ``timeout`` seconds, then destroy (GAP-50)."""
        try:
            await self.kill(container, number)
        except WrongState:
            return await self.destroy(container)
        ended = asyncio.ensure_future(self.wait(container))
        done, _ = await asyncio.wait({ended}, timeout=timeout)
        if not done:
            ended.cancel()
            return await self.destroy(container, message=f"stopped by force after {timeout:g} s")
        return await ended

    async def update(self, container: ContainerID, resources: Resources) -> None:
        """Put new limits in force while it runs; when one isolator fails, the others go back (API-4)."""
        async with self._locked(container):
            record = self.records.load(container)
            if record.state not in (State.CREATED, State.RUNNING):
                raise WrongState(f"container {container} is {record.state}, its limits cannot be changed")
            before = record.status.resources or record.config.resources
            changed: list[Isolator] = []
            try:
                for isolator in self._of(record):
                    changed.append(isolator)
                    await isolator.update(container, resources)
            except BaseException:
                for isolator in reversed(changed):
                    with contextlib.suppress(MesocosmError, OSError):
                        await isolator.update(container, before)
                raise
            self.records.note(record, resources=resources)

    async def usage(self, container: ContainerID) -> Usage:
        """What it uses now, each isolator answering its part (API-5); the last reading when it has ended."""
        record = self.records.load(container)
        if record.termination is not None:
            return record.termination.usage or Usage()
        return await self._usage(record)

    async def _usage(self, record: Record) -> Usage:
        usage = Usage(timestamp=time.time())
        for isolator in self._of(record):
            with contextlib.suppress(MesocosmError, OSError):
                usage = usage.merge(await isolator.usage(record.id))
        return usage

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
        """Start a further process inside exactly the container's isolation."""
        record = self.records.load(container)
        if record.state is not State.RUNNING or record.status.process is None:
            raise WrongState(f"container {container} is {record.state}, it must be running")
        if not arguments:
            raise InvalidConfig("nothing to execute", hint="give a command after the container")
        plan = LaunchPlan.from_json(durable.read(self.paths.container(container).plan)).entering(
            pid=record.status.process.pid,
            start_time=record.status.process.start_time,
            arguments=tuple(arguments),
            environment=tuple(environment),
            workdir=workdir,
            user=user,
        )
        where = self.paths.container(container).session(os.urandom(6).hex())
        session = Session(self._launcher, where)
        await session.begin(plan, stdin=stdin, cgroup=self.host.cgroups.tree_path(str(container)))
        return session

    def logs(self, container: ContainerID, **options: object) -> AsyncIterator[logs.Chunk]: ...

    # ── ending ──────────────────────────────────────────────────────────────────────────────────────────

    async def destroy(
        self, container: ContainerID, *, reason: Reason = "asked", message: str = ""
    ) -> Termination:
        """End it whatever its state, and give everything back (parity 1.4, DES-1 … DES-11).

        Idempotent: an ended container answers its termination.  Raises CleanupError when something could not
        be given back after several attempts; the container then stays DESTROYING, says why in its status,
        and the next attempt, recovery or command goes on with it (GAP-40).
        """
        setting_up = self._creating.get(container)
        if setting_up is not None:
            setting_up.cancel()
        async with self._locked(container):
            return await self._end(container, Termination(reason=reason, message=message))

    async def remove(self, container: ContainerID, *, force: bool = False) -> None:
        """Forget an ended container; with ``force`` destroy it first."""
        if force:
            await self.destroy(container)
        async with self._locked(container):
            record = self.records.load(container)
            if record.state is not State.DESTROYED:
                raise WrongState(
                    f"container {container} is {record.state}", hint="stop it first, or remove it by force"
                )
            self.records.remove(container)

    async def _end(self, container: ContainerID, ending: Termination) -> Termination:
        record = self.records.load(container)
        if record.termination is not None:
            return record.termination
        if record.status.ending is not None:
            ending = record.status.ending
        else:
            ending = await self._last_words(record, ending)
        record = self.records.advance(record, Event.DESTROY, ending=ending)
        backoff = CLEANUP_BACKOFF
        for attempt in range(1, CLEANUP_ATTEMPTS + 1):
            failures = await self._give_back(record)
            if not failures:
                break
            record = self.records.note(record, failures=failures)
            if attempt == CLEANUP_ATTEMPTS:
                raise CleanupError(
                    f"container {container} is not wholly cleaned up", failures, hint="it is tried again"
                )
            await asyncio.sleep(backoff)
            backoff *= 2
        trace.point("containerizer.given-back")
        ending = self._with_exit(record, ending)
        self.records.finish(record, ending)
        return ending

    async def _last_words(self, record: Record, ending: Termination) -> Termination:
        """What only the living cgroups can tell: usage, and a limit reached while nobody watched."""
        usage = await self._usage(record) if record.status.isolation else None
        if ending.limitation is None and ending.reason in ("exited", "lost"):
            limitation = await self._reached(record)
            if limitation is not None:
                ending = Termination(reason="limited", message=limitation.message, limitation=limitation)
        return msgspec.structs.replace(ending, usage=usage, finished_at=time.time())

    async def _reached(self, record: Record) -> Limitation | None:
        watches = [asyncio.ensure_future(isolator.watch(record.id)) for isolator in self._of(record)]
        if not watches:
            return None
        done, _ = await asyncio.wait(watches, timeout=0)
        for watch in watches:
            watch.cancel()
        found = [watch.result() for watch in done if watch.exception() is None]
        return found[0] if found else None

    async def _give_back(self, record: Record) -> tuple[str, ...]:
        """Every step is taken, whatever the others did; answers the failures."""
        where = self.paths.container(record.id)
        failures: list[str] = []

        async def attempt(what: str, step: Callable[[], Awaitable[object]]) -> None:
            try:
                await step()
            except (MesocosmError, OSError) as error:
                failures.append(f"{what}: {error}")

        await attempt("processes", lambda: self._kill_all(record))
        trace.point("containerizer.killed")
        for isolator in reversed(self._of(record)):
            await attempt(isolator.name, lambda isolator=isolator: isolator.cleanup(record.id))  # type: ignore[misc]
            trace.point(f"containerizer.cleaned-{isolator.name}")
        await attempt("cgroups", lambda: self.host.cgroups.remove(str(record.id)))
        trace.point("containerizer.cgroups-removed")
        await attempt("image", lambda: self.provisioner.release(record.id))
        await attempt("changes to the root", lambda: _remove_scratch(where))
        return tuple(failures)

    async def _kill_all(self, record: Record) -> None:
        await self.host.cgroups.kill_all(str(record.id))
        if record.status.supervisor is not None:
            await self._launcher.wait(self.paths.container(record.id).supervisor)

    def _with_exit(self, record: Record, ending: Termination) -> Termination:
        evidence = self._launcher.evidence(self.paths.container(record.id).supervisor)
        return msgspec.structs.replace(ending, exit=evidence.exit)

    async def _abandon(self, container: ContainerID) -> None:
        """A container that never was held leaves nothing, not even its record."""
        await self._end(container, Termination(reason="failed"))
        self.records.remove(container)

    # ── watching ────────────────────────────────────────────────────────────────────────────────────────

    def _guard(self, container: ContainerID) -> asyncio.Task[Termination]:
        guard = self._guards.get(container)
        if guard is None:
            guard = asyncio.create_task(self._watch_over(container), name=f"guard {container}")
            self._guards[container] = guard
            guard.add_done_callback(lambda _: self._guards.pop(container, None))
        return guard

    async def _watch_over(self, container: ContainerID) -> Termination:
        """Wait for the end or for a limit, whichever comes first, and destroy."""
        record = self.records.load(container)
        session = self.paths.container(container).supervisor
        ended = asyncio.ensure_future(self._launcher.wait(session))
        watches = [asyncio.ensure_future(isolator.watch(container)) for isolator in self._of(record)]
        try:
            await asyncio.wait([ended, *watches], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (ended, *watches):
                task.cancel()
            await asyncio.gather(ended, *watches, return_exceptions=True)
