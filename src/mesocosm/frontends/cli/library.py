"""Opening the images alone: what needs no container needs no launcher and no recovery either."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import click

from mesocosm import durable
from mesocosm.errors import MesocosmError, about
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, paths_of
from mesocosm.frontends.cli.saying import say
from mesocosm.images.progress import Report, silent
from mesocosm.model.size import parse_size

if TYPE_CHECKING:
    from mesocosm.images.library import Library


@contextlib.asynccontextmanager
async def library(
    ctx: click.Context, progress: Report = silent, limit_rate: str | None = None
) -> AsyncIterator[Library]:
    """The images on the roots that the command line names; ``limit_rate`` bytes a second, as written."""
    from mesocosm.conclusion import holding  # noqa: PLC0415
    from mesocosm.images.provisioner import Provisioner  # noqa: PLC0415

    paths = paths_of(ctx)
    for directory in (paths.root, paths.runtime):
        durable.private_directory(directory)
    throttle = None
    if limit_rate is not None:
        from mesocosm.images.registry.throttle import Throttle  # noqa: PLC0415

        with about("--limit-rate"):
            throttle = Throttle(parse_size(limit_rate, "--limit-rate"))
    async with Provisioner.open(paths, progress=progress, throttle=throttle, holds=holding(paths)) as images:
        yield images


async def each_image(names: Iterable[str], act: Callable[[str], Awaitable[str | None]]) -> int:
    """Do ``act`` to each image named and print what it answers; all are tried, failures are told.

    Answers the exit status.
    """
    status = 0
    for name in names:
        try:
            with about(name):
                line = await act(name)
        except MesocosmError as error:
            say(str(error))
            status = 1
        else:
            if line is not None:
                click.echo(line)
    return status


async def each_platform(store: Library, image: str, platform: str | None) -> list[str | None]:
    """What ``--platform`` means for an image that is here: "all" is every platform under its name."""
    return [*(await store.platforms(image))] if platform == "all" else [platform]


def verb_of_each(text: str, act: Callable[[Library, str], Awaitable[object]]) -> click.Command:
    """A verb that does ``act`` to each of the IMAGES given, and prints its name; ``text`` is its help."""

    @click.command(help=text)
    @click.argument("images", nargs=-1, required=True, shell_complete=completion.images)
    @click.pass_context
    @asynchronous
    async def command(ctx: click.Context, images: tuple[str, ...]) -> int:
        async with library(ctx) as store:

            async def done(image: str) -> str:
                await act(store, image)
                return image

            return await each_image(images, done)

    return command
