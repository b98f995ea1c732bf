"""``mesocosm image save``: images as one archive."""

from __future__ import annotations

from typing import Literal

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.archive import refuse_terminal, written
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.progress import progress


@click.command(
    epilog=examples(
        ("mesocosm save -o two.tar debian:12 busybox", "a file"),
        ("mesocosm save debian:12 | ssh host mesocosm load", "another host"),
    )
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(),
    help="Where to write; standard output without it, or for -.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["oci-archive", "docker-archive"]),
    default="oci-archive",
    help="docker-archive: for readers that know no OCI.",
)
@click.option("--platform", metavar="OS/ARCH|all", help="Which of an image's platforms.")
@click.option("--referrers", is_flag=True, help="What refers to the images too: signatures, SBOMs.")
@click.argument("images", nargs=-1, required=True, shell_complete=completion.images)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context,
    output: str | None,
    form: Literal["oci-archive", "docker-archive"],
    platform: str | None,
    referrers: bool,
    images: tuple[str, ...],
) -> None:
    """Write IMAGES with their names to one tar file.

    oci-archive is an OCI image layout that docker load, podman and skopeo read alike.  The same images give
    the same bytes.
    """
    if referrers and form == "docker-archive":
        raise InvalidConfig("a docker-archive holds images alone", hint="use oci-archive with --referrers")
    refuse_terminal(output)
    with progress(quiet=False) as told:
        async with library(ctx, told) as store:
            with written(output) as target:
                await store.save(images, target, form=form, platform=platform, referrers=referrers)
