"""``mesocosm image tag``: one more name for an image."""

from __future__ import annotations

import click

from mesocosm.errors import about
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import library


@click.command(
    epilog=examples(
        ("mesocosm tag debian:12 registry.example/base:1", "one more name"),
    )
)
@click.option("--platform", metavar="OS/ARCH|all", help="Which of an image's platforms.")
@click.argument("image", shell_complete=completion.images)
@click.argument("name")
@click.pass_context
@asynchronous
async def command(ctx: click.Context, platform: str | None, image: str, name: str) -> None:
    """Let NAME (HOST/NAME:TAG) mean IMAGE, whatever it meant before.

    With --platform all it does so on every platform for which IMAGE is here.
    """
    async with library(ctx) as store:
        with about(image):
            await store.tag(image, name, platform=platform)
