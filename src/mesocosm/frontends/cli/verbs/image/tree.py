"""``mesocosm image tree``: images with their layers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.colour import Paint, painter, plain, safe
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.layout import Row, columns, count
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.verbs.image.du import held_by
from mesocosm.frontends.cli.verbs.image.ls import familiar, short
from mesocosm.isolators.words import size

if TYPE_CHECKING:
    from mesocosm.images.image import Image
    from mesocosm.images.inspection import LayerUse, Usage


@click.command(
    epilog=examples(
        ("mesocosm image tree", "all images"),
        ("mesocosm image tree debian:12", "one of them"),
    )
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@click.argument("images", nargs=-1, shell_complete=completion.images)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, form: str, images: tuple[str, ...]) -> None:
    """Show IMAGES, or all there are, with their layers from the top down, and who else has each."""
    async with library(ctx) as store:
        usage = await store.usage()
        wanted = {(await store.inspect(image)).digest for image in images}
    chosen = [image for image in usage.images if not images or image.digest in wanted]
    if form == "json":
        uses = {layer.diff_id: layer for layer in usage.by_layer}
        show_json([{"image": one, "layers": [uses.get(stored) for stored in one.stored]} for one in chosen])
        return
    text = render(chosen, usage, painter(sys.stdout))
    if text:
        click.echo(text)


def render(images: list[Image], usage: Usage, paint: Paint = plain) -> str:
    """The images, each with a line for every layer below it."""
    uses = {layer.diff_id: layer for layer in usage.by_layer}
    names = {image.digest: _name(image) or short(image.digest) for image in usage.images}
    return "\n".join(line for image in images for line in _lines(image, uses, names, paint))


def _name(image: Image) -> str:
    return ", ".join(map(familiar, image.references))


def _lines(image: Image, uses: dict[str, LayerUse], names: dict[str, str], paint: Paint) -> Iterator[str]:
    held = held_by(image)
    facts = f"{short(image.digest)}  {image.platform}  {size(image.size)}"
    name = safe(_name(image)) or "<none>"
    yield f"{paint(name, 'title')}  {facts}{'' if held == '-' else f'  held by {held}'}"
    cells = [_cells(stored, uses.get(stored), image, names) for stored in reversed(image.stored)]
    for number, line in enumerate(columns(cells, gap=2).splitlines(), 1):
        yield f"{'└─' if number == len(cells) else '├─'} {line}"


def _cells(stored: str, use: LayerUse | None, image: Image, names: dict[str, str]) -> Row:
    if use is None:
        return short(stored), "not here", "", ""
    others = [safe(names[digest]) for digest in use.images if digest != image.digest]
    shared = f"shared with {', '.join(others[:3])}{_more(len(others) - 3)}" if others else ""
    mounted = "mounted" if use.mounted else ""
    return short(stored), size(use.size), ", ".join(use.forms), "  ".join(filter(None, (mounted, shared)))


def _more(number: int) -> str:
    return f" and {count(number, 'more image')}" if number > 0 else ""
