"""Our side: everything that the benchmark asks of Mesocosm goes through this file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bench import ROOT
from bench.bundle import CPU_PERIOD, MEMORY, PIDS
from bench.peers import PROOF

if TYPE_CHECKING:
    from mesocosm import ContainerConfig, ContainerID, Containerizer
    from mesocosm.launch.birth import Forked

COMMAND = str(ROOT / ".venv/bin/mesocosm")


class Unavailable(Exception):
    """Our side cannot be measured; no figure is made up for it."""


class Ours:
    """A containerizer that is running, and the requests that match what the peers are asked."""

    def __init__(self, containerizer: Containerizer, root: Path) -> None:
        self._containerizer = containerizer
        self._image = f"dir:{root}"

    @classmethod
    @asynccontextmanager
    async def open(cls, root: Path, *, state: Path, runtime: Path) -> AsyncIterator[Self]:
        """Open one on ``state`` (on disk) and ``runtime`` (in memory); containers run in ``root``."""
        try:
            from mesocosm import Containerizer
        except ImportError as error:
            raise Unavailable(f"mesocosm cannot be measured yet: {error}") from error
        if not Path(COMMAND).exists():
            raise Unavailable(f"{COMMAND} is not there: run make setup")
        async with Containerizer.open(root=state, runtime=runtime) as containerizer:
            yield cls(containerizer, root)

    def full(self, *command: str, filtered: bool = True) -> ContainerConfig:
        """Full isolation with limits; ``filtered`` with our default system call profile."""
        from mesocosm import ContainerConfig, Resources

        return ContainerConfig(
            image=self._image,
            command=command or ("/bin/true",),
            env=("PATH=/bin",),
            read_only=True,
            hostname="bench",
            auto_remove=True,
            seccomp="default" if filtered else "unconfined",
            resources=Resources(memory=MEMORY, cpus=CPU_PERIOD / 100_000, pids=PIDS),
        )

    def namespaces_only(self) -> ContainerConfig:
        """What bubblewrap can do: no cgroups, no profile."""
        from mesocosm import ContainerConfig

        return ContainerConfig(
            image=self._image,
            command=("/bin/true",),
            env=("PATH=/bin",),
            read_only=True,
            hostname="bench",
            auto_remove=True,
            seccomp="unconfined",
            isolation=(
                "filesystem/linux", "namespaces/pid", "namespaces/ipc", "namespaces/uts", "namespaces/net",
                "namespaces/cgroup", "linux/capabilities", "linux/nnp", "image/runtime",
            ),
        )  # fmt: skip

    async def launch(self, config: ContainerConfig) -> float:
        """Seconds from the request to the end of everything."""
        begin = time.perf_counter()
        container = await self._begin(config)
        termination = await self._containerizer.wait(container)
        elapsed = time.perf_counter() - begin
        if termination.exit is None or termination.exit.status != 0:
            raise RuntimeError(f"the payload did not exit with 0: {termination}")
        return elapsed

    async def launch_timed(self) -> list[tuple[str, int]]:
        """One launch with full isolation: what was done, and when on the monotonic clock in nanoseconds."""
        from mesocosm import trace

        marks: list[tuple[str, int]] = []
        launcher = self._containerizer._engine.launcher
        fork = launcher.fork

        async def timed(*given: Any, **options: Any) -> Forked:  # noqa: ANN401  (as fork itself takes them)
            begun = time.monotonic_ns()
            forked = await fork(*given, **options, timing=True)
            marks.extend((f"child: {step}", begun + after) for step, after in forked.timing)
            return forked

        trace.observe(lambda point: marks.append((point, time.monotonic_ns())))
        setattr(launcher, "fork", timed)  # noqa: B010  (for this one launch)
        try:
            await self.launch(self.full())
        finally:
            trace.observe(None)
            delattr(launcher, "fork")
        return [*marks, ("the end", time.monotonic_ns())]

    async def prove(self) -> None:
        """Our containers show that they have the limits and the filter, as the peers' do."""
        await self.launch(self.full("/bin/sh", "-c", PROOF))

    async def sample(self, config: ContainerConfig) -> float:
        """Milliseconds for one launch."""
        return await self.launch(config) * 1e3

    async def launch_many(self, config: ContainerConfig, *, count: int, in_flight: int) -> float:
        """Seconds for ``count`` launches, ``in_flight`` at a time."""
        gate = asyncio.Semaphore(in_flight)

        async def one() -> None:
            async with gate:
                await self.launch(config)

        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one())
        return time.perf_counter() - begin

    @asynccontextmanager
    async def idle(self, count: int) -> AsyncIterator[list[int]]:
        """``count`` sleeping containers; the process IDs of their supervisors."""
        containers = [await self._begin(self.full("/bin/sleep", "3600")) for _ in range(count)]
        try:
            yield [self._supervisor(container) for container in containers]
        finally:
            for container in containers:
                await self._containerizer.remove(container, force=True)

    async def _begin(self, config: ContainerConfig) -> ContainerID:
        container = await self._containerizer.create(config)
        await self._containerizer.start(container)
        return container

    def _supervisor(self, container: ContainerID) -> int:
        path = self._containerizer.paths.container(container).supervisor.process
        return int(json.loads(path.read_text())["supervisor"][0])

    def command(self, *words: str) -> tuple[str, ...]:
        """Our command line, on roots beside those of this containerizer."""
        paths = self._containerizer.paths
        return (COMMAND, "--root", f"{paths.root}-command", "--runtime", f"{paths.runtime}-command", *words)
