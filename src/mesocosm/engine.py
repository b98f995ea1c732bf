"""The parts that every operation on a container works with, wired once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from mesocosm import durable
from mesocosm.errors import NotFound
from mesocosm.images.provisioner import Provisioner
from mesocosm.isolators import registry
from mesocosm.isolators.base import Isolator
from mesocosm.isolators.host import Host
from mesocosm.launch.launcher import Launcher
from mesocosm.model import ContainerID
from mesocosm.paths import ContainerPaths
from mesocosm.records import Record, Records

LOCK_POLL = (0.001, 0.05)  # seconds between attempts at a container's lock, first and longest


class Engine:
    """Host facts, records, images, launcher and isolators below one pair of roots."""

    def __init__(self, host: Host, provisioner: Provisioner, launcher: Launcher) -> None:
        self.host = host
        self.paths = host.paths
        self.records = Records(host.paths)
        self.provisioner = provisioner
        self.launcher = launcher
        self._isolators: dict[str, Isolator] = {}
        self._background: set[asyncio.Future[Any]] = set()

    def where(self, container: ContainerID) -> ContainerPaths:
        """The container's directories."""
        return self.paths.container(container)

    def isolator(self, name: str) -> Isolator:
        """The isolator of that name, made on first use.  Raises Unsupported, NotFound."""
        if name not in self._isolators:
            self._isolators[name] = registry.load(name).create(self.host)
        return self._isolators[name]

    def isolators_of(self, record: Record, *, acting: Callable[..., Any] | None = None) -> list[Isolator]:
        """The isolators the container was composed of, in order.

        With ``acting``, a method of `Isolator`, those that have one of their own: the others do nothing then.
        """
        isolators = [self.isolator(name) for name in record.status.isolation]
        if acting is None:
            return isolators
        return [one for one in isolators if getattr(type(one), acting.__name__) is not acting]

    def in_background(self, task: asyncio.Future[Any]) -> None:
        """Let a cancelled task end when it can: giving a notification up takes the kernel a grace period."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def quiet(self) -> None:
        """Until everything in the background has ended."""
        await asyncio.gather(*self._background, return_exceptions=True)

    def birth_cgroup(self, container: ContainerID) -> Path | None:
        """The cgroup2 directory that the container's processes are born in; None where there is only v1."""
        directory = self.host.cgroups.join_targets(str(container)).directory
        return None if directory is None else Path(directory)

    @contextlib.asynccontextmanager
    async def locked(self, container: ContainerID, *, create: bool = False) -> AsyncIterator[None]:
        """Hold the container against every other task and process that would change it.

        With ``create`` it need not exist yet: the lock comes before the record, so that nobody takes a
        container that is about to be recorded for the rest of a crash.  Raises NotFound otherwise.
        """
        pause, longest = LOCK_POLL
        while True:
            with contextlib.ExitStack() as stack:
                if self._try(container, stack, create):
                    yield
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    def _try(self, container: ContainerID, stack: contextlib.ExitStack, create: bool) -> bool:
        if create:
            durable.private_directory(self.where(container).runtime)
        try:
            return stack.enter_context(self.held(container))
        except NotFound:
            if not create:
                raise
            return False  # taken for a rest and removed between the two lines above

    @contextlib.contextmanager
    def held(self, container: ContainerID) -> Iterator[bool]:
        """Try to hold the container; False when somebody else does.  Raises NotFound."""
        where = self.where(container)
        if not where.runtime.is_dir() and where.state.is_dir():
            durable.private_directory(where.runtime)  # a reboot has emptied the runtime root
        try:
            with durable.locked(where.lock, wait=False) as held:
                yield held
        except FileNotFoundError as error:
            if error.filename != str(where.lock):
                raise
            raise NotFound(f"no container {container}") from None
