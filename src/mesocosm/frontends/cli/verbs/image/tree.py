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
from mesocosm.frontends.cli.layout import count
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.verbs.image.du import held_by
from mesocosm.frontends.cli.verbs.image.ls import familiar, short
from mesocosm.isolators.words import size

if TYPE_CHECKING:
    from mesocosm.images.image import Image
    from mesocosm.images.inspection import LayerUse, Usage


@click.command()
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
    names = {image.digest: _name(image) for image in usage.images}
    return "\n".join(line for image in images for line in _lines(image, uses, names, paint))


def _name(image: Image) -> str:
    return ", ".join(map(familiar, image.references)) or short(image.digest)


def _lines(image: Image, uses: dict[str, LayerUse], names: dict[str, str], paint: Paint) -> Iterator[str]:
    held = held_by(image)
    facts = f"{short(image.digest)}  {image.platform}  {size(image.size)}"
    yield f"{paint(safe(_name(image)), 'title')}  {facts}{'' if held == '-' else f'  held by {held}'}"
    for number, stored in enumerate(reversed(image.stored)):
        mark = "└─" if number == len(image.stored) - 1 else "├─"
        use = uses.get(stored)
        yield f"{mark} {short(stored)}  {_facts(use, image, names) if use else 'not here'}"


def _facts(use: LayerUse, image: Image, names: dict[str, str]) -> str:
    words = [size(use.size), *use.forms, *(["mounted"] if use.mounted else [])]
    others = [safe(names[digest]) for digest in use.images if digest != image.digest]
    if others:
        words.append(f"shared with {', '.join(others[:3])}" + _more(len(others) - 3))
    return "  ".join(words)


def _more(number: int) -> str:
    return f" and {count(number, 'more image')}" if number > 0 else ""
