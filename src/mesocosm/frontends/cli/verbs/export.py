"""``mesocosm export``: a container's whole root as a tar file."""

from __future__ import annotations

import click

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.archive import refuse_terminal, written
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.left_out import tell_left_out


@click.command(
    epilog=examples(
        ("mesocosm export -o root.tar app", "a file"),
        ("mesocosm export app | mesocosm import - example.org/flat:1", "an image of it"),
    )
)
@click.option("-o", "--output", metavar="FILE", help="Where to write; standard output without it, or for -.")
@click.option("--pause/--no-pause", default=False, show_default=True, help="Stop its processes meanwhile.")
@click.argument("container", shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, output: str | None, pause: bool, container: str) -> None:
    """Write the whole root of CONTAINER, as it sees it, to an uncompressed tar file.

    What is mounted in it, volumes too, is left out.  mesocosm import makes an image of the file.
    """
    refuse_terminal(output)
    async with opened(ctx) as containerizer:
        with written(output) as target:
            left_out = await containerizer.export(containerizer.find(container), target, pause=pause)
    tell_left_out(left_out)
