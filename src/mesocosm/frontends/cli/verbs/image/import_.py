"""``mesocosm image import``: an image of a tarball."""

from __future__ import annotations

from pathlib import Path

import click

from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.progress import progress


@click.command(
    "import",
    epilog=examples(
        ("mesocosm import root.tar example.org/root:1", "a file"),
        ("tar -C root -c . | mesocosm import -c 'CMD [\"/bin/sh\"]' - root:1", "a pipe"),
    ),
)
@click.option("-c", "--change", "changes", multiple=True, metavar="LINE", help="As in a Dockerfile.")
@click.option("-m", "--message", default="", metavar="TEXT", help="What history is to say.")
@click.option("--platform", metavar="OS/ARCH", help="What the image is for.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.argument("file", type=click.Path())
@click.argument("name", required=False)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context,
    changes: tuple[str, ...],
    message: str,
    platform: str | None,
    quiet: bool,
    file: str,
    name: str | None,
) -> None:
    """Make an image of the tar file FILE (- is standard input), name it NAME, and print its digest.

    FILE may be compressed by gzip, zstd, xz or bzip2.  --change takes CMD, ENTRYPOINT, ENV, EXPOSE, LABEL,
    STOPSIGNAL, USER, VOLUME and WORKDIR.
    """
    with progress(quiet=quiet) as told:
        async with library(ctx, told) as store:
            image = await store.import_tarball(
                0 if file == "-" else Path(file), name, changes=changes, message=message, platform=platform
            )
    click.echo(image.digest)
