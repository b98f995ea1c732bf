"""``mesocosm image ls``: which images are on this host."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mesocosm.frontends.cli.colour import Paint, plain, safe
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.layout import ago, columns
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.output import Row, format_help, show
from mesocosm.isolators.words import size

if TYPE_CHECKING:
    from mesocosm.images.image import Image

TITLES = ("IMAGE", "DIGEST", "PLATFORM", "SIZE", "LAYERS", "PULLED", "CONTAINERS")


MEMBERS = (
    *("Repository", "Tag", "Name", "ID", "Digest", "CreatedAt", "CreatedSince", "Size", "Platform"),
    *("Layers", "Labels", "Pulled", "Checked", "Containers", "Pinned", "Complete", "Source"),
)
"""Of an item of the list, for templates."""


@click.command(
    epilog=examples(
        ("mesocosm images 'registry.example/*'", "of one registry"),
        ("mesocosm images --filter label=team=a", "by label"),
        ("mesocosm images --format '{{.Name}} {{.Size}}'", "in words of one's own"),
    )
)
@click.option("-q", "--quiet", is_flag=True, help="Only digests.")
@click.option("--no-trunc", is_flag=True, help="Whole digests, in names too.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only with this reference, label, before, since or dangling.",
)
@click.option("--format", "form", default="table", metavar="FORMAT", help=format_help(*MEMBERS))
@click.argument("pattern", required=False)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context, quiet: bool, no_trunc: bool, filters: tuple[str, ...], form: str, pattern: str | None
) -> None:
    """List the images that are here, the latest pulled first; with PATTERN only those named so.

    PATTERN is a name, with * and ? for what may be anything; without a tag it means every tag.
    """
    wanted = (*filters, *([f"reference={pattern}"] if pattern else []))
    async with library(ctx) as images:
        found = await images.images(wanted)
    now = time.time()
    if quiet:
        for image in found:
            click.echo(image.digest)
        return
    show(
        form,
        lambda paint: table(found, now=now, whole=no_trunc, paint=paint),
        lambda: rows(found, now=now, whole=no_trunc),
        found,
    )


def table(images: Sequence[Image], *, now: float, whole: bool = False, paint: Paint = plain) -> str:
    """The images as a table, one row for each name; ``now`` in seconds since the epoch."""
    lines = [_line(image, name, now, whole) for image in images for name in image.references or ("",)]
    return columns(lines, header=TITLES, paint=paint)


def _line(image: Image, name: str, now: float, whole: bool) -> list[str]:
    return [
        _named(name, whole),
        image.digest if whole else short(image.digest),
        image.platform,
        size(image.size) + ("" if image.complete else " (incomplete)"),
        str(len(image.layers)),
        ago(image.pulled_at, now),
        str(len(image.in_use)),
    ]


def _named(name: str, whole: bool) -> str:
    if not name:
        return "<none>"
    return safe(familiar(name) if whole else shortened(familiar(name)))


def rows(images: Sequence[Image], *, now: float, whole: bool = False) -> list[Row]:
    """The images for templates, one for each name, by docker's words and some of ours."""
    return [_row(image, name, now, whole) for image in images for name in image.references or ("",)]


def _row(image: Image, name: str, now: float, whole: bool) -> Row:
    from mesocosm.images.selection import made  # noqa: PLC0415

    repository, tag = _parts(name)
    return {
        "Repository": repository,
        "Tag": tag,
        "Name": familiar(name) if name else "<none>",
        "ID": image.image_id if whole else short(image.image_id),
        "Digest": image.digest,
        "CreatedAt": image.created,
        "CreatedSince": ago(made(image), now),
        "Size": size(image.size),
        "Platform": image.platform,
        "Layers": len(image.layers),
        "Labels": image.runtime.labels,
        "Pulled": ago(image.pulled_at, now),
        "Checked": "-" if image.checked_at is None else ago(image.checked_at, now),
        "Containers": len(image.in_use),
        "Pinned": image.pinned,
        "Complete": image.complete,
        "Source": image.source,
    }


def _parts(name: str) -> tuple[str, str]:
    """``debian``, ``12``: as docker shows them."""
    if not name:
        return "<none>", "<none>"
    from mesocosm.images.reference import parse_reference  # noqa: PLC0415

    parsed = parse_reference(name)
    if parsed.transport != "docker":
        return name, "<none>"
    return familiar(name).partition("@")[0].removesuffix(f":{parsed.tag}"), parsed.tag or "<none>"


def familiar(name: str) -> str:
    """A canonical name as people write it."""
    from mesocosm.images.reference import parse_reference  # noqa: PLC0415

    return parse_reference(name).familiar


_DIGEST = re.compile(r"(sha\d{3}:[0-9a-f]{12})[0-9a-f]{52,}", re.ASCII)


def shortened(text: str) -> str:
    """A name with each digest in it cut to twelve digits, for tables."""
    return _DIGEST.sub(r"\1", text)


def short(digest: str) -> str:
    """A digest's first twelve digits."""
    return digest.rpartition(":")[2][:12]
