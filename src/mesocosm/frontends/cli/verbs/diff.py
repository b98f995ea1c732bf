"""``mesocosm diff``: what a container has changed in its root."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.output import format_help, show
from mesocosm.frontends.cli.verbs.image.diff import line, rows

if TYPE_CHECKING:
    from mesocosm.root_files import RootChange


MEMBERS = ("Path", "Kind", "Letter")
"""Of an item of the list, for templates."""


@click.command(
    epilog=examples(
        ("mesocosm diff app", "which files"),
    )
)
@click.option("--format", "form", default="table", metavar="FORMAT", help=format_help(*MEMBERS))
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
        lambda: rows(found),
        found,
    )
