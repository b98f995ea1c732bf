"""``mesocosm image convert``: the same image, compressed otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.progress import progress
from mesocosm.images.compress import KINDS

if TYPE_CHECKING:
    from mesocosm.images.compress import Written


@click.command(
    epilog=examples(
        ("mesocosm image convert debian:12 debian:zstd", "by zstd"),
        ("mesocosm image convert --compression none debian:12 debian:plain", "not at all"),
    )
)
@click.option(
    "--compression",
    type=click.Choice(KINDS),
    default="zstd",
    show_default=True,
    help="What layers are compressed by.",
)
@click.option("--platform", metavar="OS/ARCH", help="Which of an image's platforms.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.argument("image", shell_complete=completion.images)
@click.argument("name")
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context,
    compression: Written,
    platform: str | None,
    quiet: bool,
    image: str,
    name: str,
) -> None:
    """Make NAME of IMAGE: its layers compressed otherwise, in an OCI manifest of its own; print its digest.

    Files, diff IDs and configuration stay what they are.
    """
    with progress(quiet=quiet) as told:
        async with library(ctx, told) as store:
            made = await store.convert(image, name, compression, platform=platform)
    click.echo(made.digest)
