"""``mesocosm diff``: what a container has changed in its root."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.output import HELP, show
from mesocosm.frontends.cli.verbs.image.diff import LETTERS, line

if TYPE_CHECKING:
    from mesocosm.root_files import RootChange


@click.command()
@click.option("--format", "form", default="table", metavar="FORMAT", help=HELP)
@click.argument("container", shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, form: str, container: str) -> None:
    """Show what CONTAINER has added (A), changed (C) and removed (D) beside its image, by path."""
    async with opened(ctx) as containerizer:
        found: list[RootChange] = await containerizer.changes(containerizer.find(container))
    show(
        form,
        lambda paint: "\n".join(line(change.kind, change.path, paint) for change in found),
        lambda: [{**msgspec.to_builtins(change), "letter": LETTERS[change.kind][0]} for change in found],
        found,
    )
