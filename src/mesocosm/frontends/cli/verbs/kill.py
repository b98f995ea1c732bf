"""``mesocosm kill``: send a signal."""

from __future__ import annotations

import click

from mesocosm.frontends.cli import completion, grammar
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.each import each


@click.command()
@click.option(
    "-s", "--signal", "name", default="KILL", metavar="SIGNAL", help="Which one; KILL unless given."
)
@click.argument("containers", nargs=-1, required=True, shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, name: str, containers: tuple[str, ...]) -> int:
    """Send a signal to the first process of CONTAINERS."""
    number = grammar.signal_number(name)
    async with opened(ctx) as containerizer:
        return await each(containerizer, containers, lambda container: containerizer.kill(container, number))
