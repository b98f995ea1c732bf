"""``mesocosm image load``: images out of an archive."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli.archive import STANDARD
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.progress import progress
from mesocosm.frontends.cli.verbs.image.ls import familiar


@click.command(
    "load",
    epilog=examples(
        ("mesocosm load -i two.tar", "a file"),
        ("mesocosm load < two.tar.gz", "through a pipe, compressed"),
    ),
)
@click.option(
    "-i",
    "--input",
    "file",
    metavar="FILE",
    type=click.Path(),
    help="What to read; standard input without it, or for -.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--platform", metavar="OS/ARCH|all", help="Which of an image's platforms.")
@click.pass_context
@asynchronous
async def command(ctx: click.Context, file: str | None, quiet: bool, platform: str | None) -> None:
    """Read every image of an archive, give them the names they have in it, and print these.

    Archives are OCI layouts and what docker save writes, in both its forms, compressed or not.  An image
    without a name is printed by its digest.
    """
    source = 0 if file in (None, STANDARD) else Path(str(file))
    if source == 0 and sys.stdin.isatty():
        raise InvalidConfig("there is no archive on a terminal", hint="give -i FILE, or a pipe")
    with progress(quiet=quiet) as told:
        async with library(ctx, told) as store:
            found = await store.load(source, platform=platform)
    for image in found:
        for name in image.references or (image.digest,):
            click.echo(familiar(name) if name != image.digest else name)
