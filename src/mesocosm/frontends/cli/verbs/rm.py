"""``mesocosm rm``: forget ended containers."""

from __future__ import annotations

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.each import each
from mesocosm.lifecycle import State


@click.command()
@click.option("-f", "--force", is_flag=True, help="End it first when it has not ended.")
@click.option("-a", "--all", "every", is_flag=True, help="All that have ended; with --force, all.")
@click.argument("containers", nargs=-1, shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, force: bool, every: bool, containers: tuple[str, ...]) -> int:
    """Remove CONTAINERS: their records, output and changed files."""
    if not containers and not every:
        raise InvalidConfig("which container?", hint="name some, or give --all")
    async with opened(ctx) as containerizer:
        if every:
            containers = tuple(
                report.id for report in containerizer.list() if force or report.state is State.DESTROYED
            )
        return await each(
            containerizer, containers, lambda container: containerizer.remove(container, force=force)
        )
