"""Opening the containerizer for one command, and running the command to its end or to a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

from mesocosm.frontends.cli.saying import say
from mesocosm.frontends.cli.settings import Interrupted, Settings
from mesocosm.frontends.cli.signals import Signals
from mesocosm.images.progress import Report, silent
from mesocosm.paths import ROOT, RUNTIME, Paths

if TYPE_CHECKING:
    from mesocosm.containerizer import Containerizer

P = ParamSpec("P")


def paths_of(ctx: click.Context) -> Paths:
    """The roots that the command line names, absolute."""
    settings: Settings = ctx.find_root().obj
    root = Path(settings.root).absolute() if settings.root else ROOT
    runtime = Path(settings.runtime).absolute() if settings.runtime else RUNTIME
    return Paths(root, runtime)


@contextlib.asynccontextmanager
async def opened(
    ctx: click.Context, progress: Report = silent, *, launching: bool = False
) -> AsyncIterator[Containerizer]:
    """The containerizer on the roots that the command line names; what recovery could not do is told.

    ``launching`` says that a process is going to be started, so that what forks it warms up meanwhile.
    """
    from mesocosm.containerizer import Containerizer  # noqa: PLC0415

    paths = paths_of(ctx)
    async with Containerizer.open(
        root=paths.root, runtime=paths.runtime, progress=progress, warm=launching
    ) as containerizer:
        for failure in containerizer.recovered.failures:
            say(f"warning: {failure}")
        for damaged in containerizer.recovered.damaged:
            say(f"warning: container {damaged.id} is set aside: {damaged.reason}")
        yield containerizer


def asynchronous(
    function: Callable[Concatenate[click.Context, P], Coroutine[Any, Any, int | None]],
) -> Callable[Concatenate[click.Context, P], int]:
    """Run a coroutine as a command.  The first signal cancels it, so that everything is given back."""

    @wraps(function)
    def run(ctx: click.Context, /, *args: P.args, **kwargs: P.kwargs) -> int:
        if not ctx.find_root().obj.debug:
            _keep_faults_quiet()
        return asyncio.run(_guarded(ctx, function(ctx, *args, **kwargs)))

    return run


async def _guarded(ctx: click.Context, command: Coroutine[Any, Any, int | None]) -> int:
    task = asyncio.ensure_future(command)
    signals = ctx.meta["mesocosm.signals"] = Signals()
    with signals.ending(task) as ended_by:
        try:
            return await task or 0
        except asyncio.CancelledError:
            raise Interrupted(ended_by[0] if ended_by else signal.SIGINT) from None


def signals_of(ctx: click.Context) -> Signals:
    """The signals of this command."""
    found: Signals = ctx.meta["mesocosm.signals"]
    return found


def _keep_faults_quiet() -> None:
    """A failure is one line: what a forgotten task, a thread or a finaliser raises is for --debug."""
    logging.getLogger().addHandler(logging.NullHandler())
    sys.unraisablehook = lambda _: None
    threading.excepthook = lambda _: None
