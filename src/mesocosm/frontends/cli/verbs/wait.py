"""``mesocosm wait``: until containers end."""

from __future__ import annotations

import click

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.each import each
from mesocosm.model import ContainerID


@click.command()
@click.argument("containers", nargs=-1, required=True, shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, containers: tuple[str, ...]) -> int:
    """Wait until each of CONTAINERS has ended, and print its exit status."""
    async with opened(ctx) as containerizer:

        async def wait(container: ContainerID) -> None:
            termination = await containerizer.wait(container)
            click.echo(str(termination.status))

        return await each(containerizer, containers, wait, echo=False)
