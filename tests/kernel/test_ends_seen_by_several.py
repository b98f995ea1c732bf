"""Several processes wait for one container; whoever is first ends it, and all of them know how it ended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from mesocosm import ContainerConfig, Containerizer
from mesocosm.model import Termination
from mesocosm.teardown import tear_down


async def test_one_that_another_process_forgot_has_its_status(tmp_path: Path, busybox_root: Path) -> None:
    """As of ``run --rm``, while any other command is at work: recovery ends and removes what has ended."""
    async with (
        Containerizer.open(root=tmp_path / "state", runtime=tmp_path / "run") as ours,
        Containerizer.open(root=tmp_path / "state", runtime=tmp_path / "run", warm=False) as others,
    ):
        script = "read line; exit 7"
        reading, writing = os.pipe()
        config = ContainerConfig(
            image=f"dir:{busybox_root}", command=("sh", "-c", script), auto_remove=True, stdin=True
        )
        container = await ours.create(config, stdin=reading)
        await ours.start(container)
        waiting = asyncio.create_task(ours.wait(container))
        async with others._engine.locked(container):
            os.write(writing, b"end\n")
            await others._engine.launcher.wait(others._engine.where(container).supervisor)
            await tear_down(others._engine, container, Termination(reason="exited"))
            assert others.list() == ()
        ended = await waiting
        assert (ended.reason, ended.status) == ("exited", 7)
        os.close(reading)
        os.close(writing)
