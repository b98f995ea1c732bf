"""``mesocosm start``: open the gate of created containers."""

from __future__ import annotations

import click

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.each import each


@click.command()
@click.argument("containers", nargs=-1, required=True, shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, containers: tuple[str, ...]) -> int:
    """Start CONTAINERS that were set up with ``create``."""
    async with opened(ctx) as containerizer:
        return await each(containerizer, containers, containerizer.start)
