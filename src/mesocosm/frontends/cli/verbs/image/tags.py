"""``mesocosm image tags``: what a repository in a registry has."""

from __future__ import annotations

import click

from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import library


@click.command(
    epilog=examples(
        ("mesocosm image tags registry.example/app", "one repository's"),
        ("mesocosm image tags debian", "docker.io's"),
    )
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@click.argument("name")
@click.pass_context
@asynchronous
async def command(ctx: click.Context, form: str, name: str) -> None:
    """Ask a registry for the tags of NAME (HOST/NAME; docker.io's without HOST), and print them."""
    async with library(ctx) as store:
        tags = await store.remote.tags(name)
    if form == "json":
        show_json(tags)
        return
    for tag in tags:
        click.echo(tag)
