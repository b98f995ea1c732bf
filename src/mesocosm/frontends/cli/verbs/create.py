"""``mesocosm create``: set up and hold."""

from __future__ import annotations

from typing import Any

import click

from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.progress import progress
from mesocosm.frontends.cli.request import config_of, options


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--rm", "auto_remove", is_flag=True, help="Remove it when it has ended.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@options
@click.pass_context
@asynchronous
async def command(ctx: click.Context, /, **given: Any) -> None:
    """Set a container of IMAGE up, hold it before its first instruction, and print its ID."""
    config = config_of(given, auto_remove=given["auto_remove"])
    with progress(quiet=given["quiet"]) as told:
        async with opened(ctx, told, launching=True) as containerizer:
            container = await containerizer.create(config)
            told.close()
            click.echo(str(container))
