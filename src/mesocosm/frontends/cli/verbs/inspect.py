"""``mesocosm inspect``: everything known of containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from mesocosm.errors import NotFound
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.model import ContainerID

if TYPE_CHECKING:
    from mesocosm.containerizer import Containerizer


@click.command()
@click.option("--format", "form", type=click.Choice(["json"]), default="json", help="How to print.")
@click.option("--plan", is_flag=True, help="Add the launch plan as it was run.")
@click.argument("containers", nargs=-1, required=True, shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, form: str, plan: bool, containers: tuple[str, ...]) -> None:
    """Show everything known of CONTAINERS, as a JSON list."""
    del form
    async with opened(ctx) as containerizer:
        told: list[dict[str, Any]] = []
        for name in containers:
            container = _found(containerizer, name)
            facts = msgspec.to_builtins(await containerizer.status(container))
            if plan:
                try:
                    facts["plan"] = msgspec.to_builtins(containerizer.plan(container))
                except NotFound:
                    facts["plan"] = None
            told.append(facts)
    show_json(told)


def _found(containerizer: Containerizer, name: str) -> ContainerID:
    try:
        return containerizer.find(name)
    except NotFound as error:
        error.hint = f"{error.hint}; mesocosm image inspect tells of images"
        raise
