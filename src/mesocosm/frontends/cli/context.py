"""Opening the containerizer for one command."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

import click

from mesocosm.containerizer import Containerizer
from mesocosm.images.progress import Report, silent
from mesocosm.paths import ROOT, RUNTIME


@contextlib.asynccontextmanager
async def opened(ctx: click.Context, progress: Report = silent) -> AsyncIterator[Containerizer]:
    """The containerizer on the roots that the command line names; what recovery could not do is told."""
    root, runtime = ctx.find_root().obj
    async with Containerizer.open(
        root=Path(root) if root else ROOT, runtime=Path(runtime) if runtime else RUNTIME, progress=progress
    ) as containerizer:
        for failure in containerizer.recovered.failures:
            click.echo(f"mesocosm: warning: {failure}", err=True)
        for damaged in containerizer.recovered.damaged:
            click.echo(f"mesocosm: warning: container {damaged.id} is set aside: {damaged.reason}", err=True)
        yield containerizer


def asynchronous(
    function: Callable[..., Coroutine[Any, Any, int | None]],
) -> Callable[..., int]:
    """Run a coroutine as a command.  SIGINT and SIGTERM cancel it, so that everything is given back."""

    @wraps(function)
    def run(ctx: click.Context, **given: Any) -> int:
        async def guarded() -> int:
            task = asyncio.ensure_future(function(ctx, **given))
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, task.cancel)
            try:
                return await task or 0
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None

        return asyncio.run(guarded())

    return run
