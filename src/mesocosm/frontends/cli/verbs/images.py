"""``mesocosm images``: which images are on this host."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mesocosm.frontends.cli.colour import Paint, painter, plain, safe
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.layout import age, columns
from mesocosm.isolators.words import size

if TYPE_CHECKING:
    from mesocosm.images.image import Image

TITLES = ("IMAGE", "DIGEST", "PLATFORM", "SIZE", "LAYERS", "PULLED", "CONTAINERS")


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Only digests.")
@click.option("--no-trunc", is_flag=True, help="Whole digests.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="How to print.")
@click.pass_context
@asynchronous
async def command(ctx: click.Context, quiet: bool, no_trunc: bool, form: str) -> None:
    """List the images that are here, the latest pulled first."""
    async with opened(ctx) as containerizer:
        found = await containerizer.images.images()
    if quiet:
        for image in found:
            click.echo(image.digest)
    elif form == "json":
        show_json(found)
    else:
        click.echo(table(found, now=time.time(), whole=no_trunc, paint=painter(sys.stdout)))


def table(images: Sequence[Image], *, now: float, whole: bool = False, paint: Paint = plain) -> str:
    """The images as a table, one row for each name; ``now`` in seconds since the epoch."""
    rows = [_row(image, name, now, whole) for image in images for name in image.references or ("",)]
    return columns(rows, header=TITLES, paint=paint)


def _row(image: Image, name: str, now: float, whole: bool) -> list[str]:
    return [
        safe(_familiar(name)) if name else "<none>",
        image.digest if whole else image.digest.rpartition(":")[2][:12],
        image.platform,
        size(image.size) + ("" if image.complete else " (incomplete)"),
        str(len(image.layers)),
        f"{age(max(0.0, now - image.pulled_at))} ago",
        str(len(image.in_use)),
    ]


def _familiar(name: str) -> str:
    from mesocosm.images.reference import parse_reference  # noqa: PLC0415

    return parse_reference(name).familiar
