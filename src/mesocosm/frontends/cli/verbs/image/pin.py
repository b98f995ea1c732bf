"""``mesocosm image pin``: keep images, whatever is collected."""

from __future__ import annotations

import click

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.library import each_image, library


@click.command()
@click.argument("images", nargs=-1, required=True, shell_complete=completion.images)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, images: tuple[str, ...]) -> int:
    """Keep IMAGES from being removed or collected, until they are unpinned."""
    async with library(ctx) as store:

        async def act(image: str) -> str:
            await store.pin(image)
            return image

        return await each_image(images, act)
