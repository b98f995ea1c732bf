"""``mesocosm image rm``: take images off this host."""

from __future__ import annotations

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import each_image, library
from mesocosm.frontends.cli.saying import say
from mesocosm.isolators.words import size


@click.command(
    epilog=examples(
        ("mesocosm rmi debian:12", "a name, and with the last the image"),
        ("mesocosm rmi --force 4f5e", "an image with all its names"),
        ("mesocosm rmi --remote registry.example/app:1", "from the registry"),
    )
)
@click.option("-f", "--force", is_flag=True, help="All its names at once.")
@click.option("--unused", is_flag=True, help="Images that have no name and that no container holds.")
@click.option("--platform", metavar="OS/ARCH|all", help="Which of an image's platforms.")
@click.option("--remote", is_flag=True, help="From their registries, not from this host.")
@click.argument("images", nargs=-1, shell_complete=completion.images)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context, force: bool, unused: bool, platform: str | None, remote: bool, images: tuple[str, ...]
) -> int:
    """Remove IMAGES by name or by digest; with the last name the image goes.

    Layers that another image has, and images that a container has, stay.  With --remote a tag, HOST/NAME:TAG,
    or a manifest with all its tags, HOST/NAME@DIGEST, goes from its registry, and nothing from this host.
    """
    if not images and not unused:
        raise InvalidConfig("which image?", hint="name some, or give --unused")
    if remote:
        if unused or force or platform:
            raise InvalidConfig("--remote goes with none of --force, --unused, --platform")
        return await _remove_remotely(ctx, images)
    async with opened(ctx) as containerizer:

        async def remove(image: str) -> str:
            await containerizer.images.remove(image, force=force, platform=platform)
            return image

        status = await each_image(images, remove)
        if unused:
            plan = await containerizer.images.prune()
            for digest in plan.images:
                click.echo(digest)
            say(f"{size(plan.size)} freed")
    return status


async def _remove_remotely(ctx: click.Context, images: tuple[str, ...]) -> int:
    async with library(ctx) as store:

        async def remove(image: str) -> str:
            await store.remote.delete(image)
            return image

        return await each_image(images, remove)
