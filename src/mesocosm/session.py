"""A further process inside a running container: what ``exec`` starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from mesocosm import durable
from mesocosm.errors import LaunchError, MesocosmError
from mesocosm.launch import failures
from mesocosm.launch.launcher import Launcher, OutputPaths
from mesocosm.linux import beneath
from mesocosm.model import Exit
from mesocosm.paths import SessionPaths
from mesocosm.plan import LaunchPlan

PATIENCE = 5.0  # seconds for a supervisor to end once its process is killed


class Session:
    """One further process, with a supervisor of its own.

    It dies with the container.  Its output lies in ``output`` until ``close``.
    """

    def __init__(self, launcher: Launcher, paths: SessionPaths) -> None:
        self._launcher = launcher
        self._paths = paths
        self.pid = 0
        self.output = OutputPaths(
            stdout=paths.directory / "stdout",
            stderr=paths.directory / "stderr",
            index=paths.directory / "stdio.index",
        )

    async def begin(self, plan: LaunchPlan, *, stdin: int | None, cgroup: Path | None) -> None:
        """Fork and start.  Raises LaunchError; then nothing is left behind."""
        durable.private_directory(self._paths.directory)
        try:
            forked = await self._launcher.fork(
                plan, self._paths, output=self.output, stdin=stdin, cgroup=cgroup
            )
            self.pid = forked.pid
            await self._launcher.start(self._paths)
        except BaseException as error:
            await asyncio.shield(self._abandon())
            if isinstance(error, LaunchError):
                raise failures.executing(plan, error) from error
            raise

    async def _abandon(self) -> None:
        """End what may have begun, and let its supervisor write its last word before the directory goes."""
        with contextlib.suppress(MesocosmError, OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._launcher.signal(self._paths, signal.SIGKILL)
                await self._launcher.wait(self._paths)
        await self.close()

    async def wait(self) -> Exit:
        """How the process ended; killed, when its supervisor was lost with the container."""
        ended = await self._launcher.wait(self._paths)
        return ended or Exit(signal=9)

    async def signal(self, number: int) -> bool:
        """Send a signal to the process; False when it has ended."""
        return await self._launcher.signal(self._paths, number)

    async def close(self) -> None:
        """Forget the session and its output.  The process, if it still runs, goes on."""
        parent = os.open(self._paths.directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await asyncio.to_thread(beneath.remove_tree, parent, self._paths.directory.name)
        except FileNotFoundError:
            pass
        finally:
            os.close(parent)
