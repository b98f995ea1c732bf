"""``mesocosm pull``: have images on this host."""

from __future__ import annotations

import click

from mesocosm.errors import MesocosmError
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.progress import progress


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--platform", metavar="OS/ARCH", help="Which of an image's platforms.")
@click.option("--backend", metavar="NAME", help="What layers are made ready for: erofs, overlay, copy.")
@click.argument("images", nargs=-1, required=True)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context, quiet: bool, platform: str | None, backend: str | None, images: tuple[str, ...]
) -> int:
    """Ask where IMAGES come from for what they are now, fetch what is missing, and print their digests.

    An image is docker.io's name, HOST/NAME:TAG, oci:PATH, oci-archive:PATH or docker-archive:PATH.
    """
    status = 0
    with progress(quiet=quiet) as told:
        async with opened(ctx, told) as containerizer:
            for image in images:
                try:
                    found = await containerizer.images.pull(image, platform=platform, backend=backend)
                except MesocosmError as error:
                    click.echo(f"mesocosm: {error}", err=True)
                    status = 1
                else:
                    click.echo(found.digest)
    return status
