"""``mesocosm image du``: what images take on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mesocosm.frontends.cli.colour import Paint, plain, safe
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.layout import columns
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.output import Row, format_help, show
from mesocosm.frontends.cli.verbs.image.ls import familiar, short, shortened
from mesocosm.isolators.words import size

if TYPE_CHECKING:
    from mesocosm.images.image import Image
    from mesocosm.images.inspection import LayerUse, Usage

TITLES = ("IMAGE", "DIGEST", "LAYERS", "SIZE", "SHARED", "OWN", "HELD BY")
LAYER_TITLES = ("LAYER", "FORM", "SIZE", "IMAGES", "MOUNTED")


MEMBERS = ("Name", "ID", "Digest", "Layers", "Size", "Shared", "Own", "HeldBy")
"""Of an item of the list, for templates."""


@click.command(
    epilog=examples(
        ("mesocosm image du", "by image"),
        ("mesocosm image du --format '{{.Name}} {{.Own}}'", "what is theirs alone"),
    )
)
@click.option("-v", "--verbose", is_flag=True, help="Every layer too.")
@click.option("--no-trunc", is_flag=True, help="Whole digests, in names too.")
@click.option("--format", "form", default="table", metavar="FORMAT", help=format_help(*MEMBERS))
@click.pass_context
@asynchronous
async def command(ctx: click.Context, verbose: bool, no_trunc: bool, form: str) -> None:
    """Show what images take on disk: what they share, what is theirs alone, who holds them."""
    async with library(ctx) as store:
        usage = await store.usage()
    show(
        form,
        lambda paint: render(usage, verbose, paint, whole=no_trunc),
        lambda: rows(usage, whole=no_trunc),
        usage,
    )


def render(usage: Usage, verbose: bool, paint: Paint = plain, *, whole: bool = False) -> str:
    """The images as a table, the layers too when asked for, and what it is in all."""
    table = [[safe(str(row[key])) for key in _KEYS] for row in rows(usage, whole=whole)]
    if not whole:
        table = [[shortened(name), *others] for name, *others in table]
    parts = [columns(table, header=TITLES, paint=paint)] if table else []
    if verbose and usage.by_layer:
        layers = [_layer(layer, whole) for layer in usage.by_layer]
        parts.append(columns(layers, header=LAYER_TITLES, paint=paint))
    totals = [
        ("layers", size(usage.layers), f"{size(usage.shared)} of it in more than one image"),
        ("blobs", size(usage.blobs), "as published: what saving and pushing need"),
        ("in all", size(usage.layers + usage.blobs), f"{size(usage.reclaimable)} of it nobody needs"),
    ]
    parts.append(columns(totals))
    return "\n\n".join(parts)


_KEYS = ("Name", "ID", "Layers", "Size", "Shared", "Own", "HeldBy")


def rows(usage: Usage, *, whole: bool = False) -> list[Row]:
    """The images, for templates."""
    layers = {layer.diff_id: layer for layer in usage.by_layer}
    return [_row(image, layers, whole) for image in usage.images]


def _row(image: Image, layers: dict[str, LayerUse], whole: bool) -> Row:
    mine = {stored: layers[stored] for stored in image.stored if stored in layers}
    shared = sum(layer.size for layer in mine.values() if len(layer.images) > 1)
    return {
        "Name": ", ".join(map(familiar, image.references)) or "<none>",
        "ID": image.digest if whole else short(image.digest),
        "Digest": image.digest,
        "Layers": len(image.layers),
        "Size": size(image.size),
        "Shared": size(shared),
        "Own": size(image.size - shared),
        "HeldBy": held_by(image),
    }


def held_by(image: Image) -> str:
    """Who keeps an image from being removed."""
    holders = [*(["pin"] if image.pinned else []), *(owner[:12] for owner in image.in_use)]
    return ", ".join(holders) or "-"


def _layer(layer: LayerUse, whole: bool) -> list[str]:
    return [
        layer.diff_id if whole else short(layer.diff_id),
        ", ".join(layer.forms),
        size(layer.size),
        ", ".join(layer.images if whole else map(short, layer.images)) or "none",
        "yes" if layer.mounted else "no",
    ]
