"""``mesocosm update``: other limits for running containers."""

from __future__ import annotations

from typing import Any

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.each import each
from mesocosm.frontends.cli.request import limits, resources_of
from mesocosm.model import ContainerID


@click.command()
@limits
@click.argument("containers", nargs=-1, required=True, shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, /, containers: tuple[str, ...], **given: Any) -> int:
    """Change limits of CONTAINERS; what is not named stays, -1 lifts a limit.

    Either all changes of a container are in force afterwards, or none.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    if not asked:
        raise InvalidConfig("nothing to change", hint="give a limit, as in --memory 512m")
    async with opened(ctx) as containerizer:

        async def update(container: ContainerID) -> None:
            report = await containerizer.status(container)
            await containerizer.update(container, resources_of(given, report.resources))

        return await each(containerizer, containers, update)
