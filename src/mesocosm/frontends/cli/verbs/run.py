"""``mesocosm run``: create, start, and unless detached stay with it until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mesocosm.errors import AlreadyExists, InvalidConfig, NotFound
from mesocosm.frontends.cli import foreground
from mesocosm.frontends.cli.colour import safe
from mesocosm.frontends.cli.context import asynchronous, opened, signals_of
from mesocosm.frontends.cli.progress import progress
from mesocosm.frontends.cli.report import show_report
from mesocosm.frontends.cli.request import config_of, options
from mesocosm.frontends.cli.settings import ReaderGone
from mesocosm.frontends.faults import READER_GONE
from mesocosm.model import ContainerID, Termination

if TYPE_CHECKING:
    from mesocosm.containerizer import Containerizer
    from mesocosm.logs import Chunk
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
async def command(ctx: click.Context, /, **given: Any) -> int:
    """Create and start a container of IMAGE.

    Nothing after IMAGE is read as an option of ours.  The exit status is the payload's, 128 and the signal's
    number when one killed it, 127 or 126 when the command is missing or cannot be executed, and 125 when it
    is us who failed.
    """
    config = config_of(given, auto_remove=given["auto_remove"], stdin=given["interactive"])
    container = ContainerID.generate()
    with (
        IdentityFile(given["cidfile"], container) as identity,
        progress(quiet=given["quiet"]) as told,
        foreground.standard_input(given["interactive"] and not given["detach"]) as stdin,
    ):
        async with opened(ctx, told, launching=True) as containerizer:
            await containerizer.create(config, container=container, stdin=stdin.descriptor)
            told.close()
            stdin.close()
            if given["detach"]:
                await _start(ctx, containerizer, container)
                identity.keep()
                click.echo(str(container))
                return 0
            return await _stay(ctx, containerizer, container, identity, report=given["report"])


async def _stay(
    ctx: click.Context,
    containerizer: Containerizer,
    container: ContainerID,
    identity: IdentityFile,
    *,
    report: bool,
) -> int:
    output = containerizer.logs(container, follow=True)
    with foreground.forwarding(
        signals_of(ctx),
        lambda number: containerizer.kill(container, number),
        lambda: containerizer.destroy(container),
    ) as started:
        created, plan = await _start(ctx, containerizer, container)
        ending = asyncio.ensure_future(containerizer.wait(container))  # at once: it may be gone before long
        identity.keep()
        started.set()
        story, (termination, gone) = await asyncio.gather(
            _told(containerizer, container, created),
            _see_it_through(containerizer, container, output, ending),
        )
    if termination.reason in ("limited", "lost"):
        click.echo(f"mesocosm: {safe(termination.message)}", err=True)
    if report:
        show_report(story, plan, termination)
    return READER_GONE if gone else termination.status


async def _start(
    ctx: click.Context, containerizer: Containerizer, container: ContainerID
) -> tuple[Report, LaunchPlan]:
    """Start it; answers what was known of it before."""
    try:
        plan = containerizer.plan(container)
        created = await containerizer.status(container)
        await signals_of(ctx).heard()
        await containerizer.start(container)
    except BaseException:
        await asyncio.shield(containerizer.remove(container, force=True))
        raise
    return created, plan


async def _told(containerizer: Containerizer, container: ContainerID, created: Report) -> Report:
    """What is known of it after its start; what was before, if it has ended and is forgotten."""
    with contextlib.suppress(NotFound):
        return await containerizer.status(container)
    return created


async def _see_it_through(
    containerizer: Containerizer,
    container: ContainerID,
    output: AsyncIterator[Chunk],
    ending: asyncio.Future[Termination],
) -> tuple[Termination, bool]:
    """Until it has ended and all its output is shown; whether that was because nobody reads it any more."""
    showing = asyncio.create_task(foreground.show(output))
    try:
        await asyncio.wait((showing, ending), return_when=asyncio.FIRST_EXCEPTION)
        if showing.done() and isinstance(showing.exception(), ReaderGone):
            with contextlib.suppress(NotFound):  # it has ended, and was to be forgotten then
                await containerizer.destroy(container, message="nobody reads its output any more")
            return await ending, True
        await showing
        return await ending, False
    finally:
        for task in (showing, ending):
            task.cancel()
        await asyncio.gather(showing, ending, return_exceptions=True)


class IdentityFile:
    """``--cidfile``: the container's ID in a file of its own; gone again if it never started."""

    def __init__(self, path: Path | None, container: ContainerID) -> None:
        self._path = path
        self._container = container
        self._kept = False

    def keep(self) -> None:
        """It has started: the file stays."""
        self._kept = True

    def __enter__(self) -> IdentityFile:
        if self._path is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                descriptor = os.open(self._path, flags, 0o644)
            except FileExistsError:
                raise AlreadyExists(
                    f"--cidfile: {self._path} exists", hint="remove it, or name another file"
                ) from None
            except OSError as error:
                raise InvalidConfig(f"--cidfile: {self._path} cannot be made: {error.strerror}") from error
            os.fchmod(descriptor, 0o644)
            os.write(descriptor, str(self._container).encode())
            os.close(descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None and not self._kept:
            self._path.unlink(missing_ok=True)
