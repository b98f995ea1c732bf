"""``mesocosm rmi``: take images off this host."""

from __future__ import annotations

import click

from mesocosm.errors import InvalidConfig, MesocosmError
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.isolators.words import size


@click.command()
@click.option("-f", "--force", is_flag=True, help="All its names at once.")
@click.option("--unused", is_flag=True, help="Images that have no name and that no container holds.")
@click.argument("images", nargs=-1)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, force: bool, unused: bool, images: tuple[str, ...]) -> int:
    """Remove IMAGES by name or by digest; with the last name the image goes.

    Layers that another image has, and images that a container has, stay.
    """
    if not images and not unused:
        raise InvalidConfig("which image?", hint="name some, or give --unused")
    status = 0
    async with opened(ctx) as containerizer:
        for image in images:
            try:
                await containerizer.images.remove(image, force=force)
            except MesocosmError as error:
                click.echo(f"mesocosm: {error}", err=True)
                status = 1
            else:
                click.echo(image)
        if unused:
            plan = await containerizer.images.prune()
            for digest in plan.images:
                click.echo(digest)
            click.echo(f"mesocosm: {size(plan.size)} freed", err=True)
    return status
