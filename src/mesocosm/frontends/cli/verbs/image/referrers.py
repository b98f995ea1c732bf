"""``mesocosm image referrers``: signatures and other things that a registry has for an image."""

from __future__ import annotations

import sys

import click

from mesocosm.frontends.cli.colour import painter, safe
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.layout import columns
from mesocosm.frontends.cli.library import library
from mesocosm.isolators.words import size

TITLES = ("DIGEST", "ARTIFACT TYPE", "SIZE")


@click.command(
    epilog=examples(
        ("mesocosm image referrers registry.example/app:1", "all of them"),
        ("mesocosm image referrers --format json registry.example/app:1", "for programs"),
    )
)
@click.option("--artifact-type", metavar="TYPE", help="Only those of this type.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@click.argument("name")
@click.pass_context
@asynchronous
async def command(ctx: click.Context, artifact_type: str | None, form: str, name: str) -> None:
    """Ask a registry what refers to the image NAME (HOST/NAME:TAG, or …@DIGEST): signatures, SBOMs.

    The image need not be on this host.
    """
    async with library(ctx) as store:
        found = await store.remote.referrers(name, artifact_type=artifact_type)
    if form == "json":
        show_json(found)
        return
    rows = [(one.digest, safe(one.artifact_type) or "-", size(one.size)) for one in found]
    click.echo(columns(rows, header=TITLES, paint=painter(sys.stdout)))
