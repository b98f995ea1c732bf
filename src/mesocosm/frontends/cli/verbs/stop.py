"""``mesocosm stop``: ask, wait, end by force."""

from __future__ import annotations

import click

from mesocosm.frontends.cli import completion, grammar
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.each import each
from mesocosm.model import ContainerID


@click.command()
@click.option("-t", "--time", "grace", metavar="SECONDS", help="How long to wait before the kill.")
@click.option(
    "-s", "--signal", "name", metavar="SIGNAL", help="How to ask; the container's own unless given."
)
@click.argument("containers", nargs=-1, required=True, shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context, grace: str | None, name: str | None, containers: tuple[str, ...]
) -> int:
    """Ask CONTAINERS to end, wait, and end by force what has not."""
    seconds = None if grace is None else grammar.seconds(grace, "--time")
    number = None if name is None else grammar.signal_number(name)
    async with opened(ctx) as containerizer:

        async def stop(container: ContainerID) -> None:
            await containerizer.stop(container, number=number, grace=seconds)

        return await each(containerizer, containers, stop)
