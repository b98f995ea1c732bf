"""``mesocosm run``: create, start, and unless detached stay with it until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import click

from mesocosm.containerizer import Containerizer
from mesocosm.errors import AlreadyExists, NotFound
from mesocosm.frontends.cli import foreground
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.progress import progress
from mesocosm.frontends.cli.report import show_report
from mesocosm.frontends.cli.request import config_of, options
from mesocosm.logs import Chunk
from mesocosm.model import ContainerID, Termination
from mesocosm.plan import LaunchPlan
from mesocosm.reports import Report


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Leave it running and print its ID.")
@click.option("--rm", "auto_remove", is_flag=True, help="Remove it when it has ended.")
@click.option("-i", "--interactive", is_flag=True, help="Give it our standard input.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@click.option("--report", is_flag=True, help="When it has ended, show what held and what was used.")
@click.option("--cidfile", type=click.Path(path_type=Path), help="Write the container's ID to a new file.")
@options
@click.pass_context
@asynchronous
async def command(ctx: click.Context, **given: Any) -> int:
    """Create and start a container of IMAGE.

    Nothing after IMAGE is read as an option of ours.  The exit status is the payload's, 128 and the signal's
    number when one killed it, 127 or 126 when the command is missing or cannot be executed, and 125 when it
    is us who failed.
    """
    config = config_of(given, auto_remove=given["auto_remove"], stdin=given["interactive"])
    container = ContainerID.generate()
    with _identity_file(given["cidfile"], container), progress(quiet=given["quiet"]) as told:
        async with (
            opened(ctx, told) as containerizer,
            foreground.standard_input(given["interactive"] and not given["detach"]) as stdin,
        ):
            await containerizer.create(config, container=container, stdin=stdin)
            told.close()
            if stdin is not None:
                os.close(stdin)
            output = containerizer.logs(container, follow=True)
            story = await _start(containerizer, container)
            if given["detach"]:
                click.echo(str(container))
                return 0
            termination = await _stay(containerizer, container, output)
            if given["report"]:
                show_report(*story, termination)
            return termination.status


async def _start(containerizer: Containerizer, container: ContainerID) -> tuple[Report, LaunchPlan]:
    """Start it; answers what a report at the end will need, which may be gone by then."""
    try:
        plan = containerizer.plan(container)
        created = await containerizer.status(container)
        await containerizer.start(container)
    except BaseException:
        await asyncio.shield(containerizer.remove(container, force=True))
        raise
    with contextlib.suppress(NotFound):
        return await containerizer.status(container), plan
    return created, plan


async def _stay(
    containerizer: Containerizer, container: ContainerID, output: AsyncIterator[Chunk]
) -> Termination:
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: os._exit(128 + signal.SIGHUP))
    with foreground.forwarding(
        lambda number: containerizer.kill(container, number), lambda: containerizer.destroy(container)
    ):
        showing = asyncio.create_task(foreground.show(output))
        termination = await containerizer.wait(container)
        await showing
    _say(termination)
    return termination


def _say(termination: Termination) -> None:
    if termination.reason in ("limited", "lost"):
        click.echo(f"mesocosm: {termination.message}", err=True)


@contextlib.contextmanager
def _identity_file(path: Path | None, container: ContainerID) -> Iterator[None]:
    """The container's ID in a file that did not exist before; gone again when it never started."""
    if path is None:
        yield
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise AlreadyExists(f"--cidfile: {path} exists", hint="remove it, or name another file") from None
    os.write(descriptor, str(container).encode())
    os.close(descriptor)
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise
