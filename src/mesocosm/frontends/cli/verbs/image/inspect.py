"""``mesocosm image inspect``: everything known of images."""

from __future__ import annotations

import click

from mesocosm.errors import InvalidConfig, about
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import each_platform, library
from mesocosm.frontends.cli.output import template_of


@click.command(
    epilog=examples(
        ("mesocosm image inspect debian:12", "everything"),
        ("mesocosm image inspect --format '{{.Config.Env}}' debian:12", "one thing of it"),
        ("mesocosm image inspect --manifest debian:12", "as it was published"),
    )
)
@click.option("--platform", metavar="OS/ARCH|all", help="Which of an image's platforms.")
@click.option("--format", "form", default="json", metavar="FORMAT", help="json, or a template: '{{.Id}}'.")
@click.option("--manifest", is_flag=True, help="Only the manifest, byte for byte.")
@click.option("--config", is_flag=True, help="Only the configuration, byte for byte.")
@click.argument("images", nargs=-1, required=True, shell_complete=completion.images)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context, platform: str | None, form: str, manifest: bool, config: bool, images: tuple[str, ...]
) -> None:
    """Show everything known of IMAGES, as a JSON list in the shape that docker's inspect has."""
    if manifest and config:
        raise InvalidConfig("--manifest and --config are two documents", hint="ask for one at a time")
    template = None if form == "json" else template_of(form)
    async with library(ctx) as store:
        found = []
        for image in images:
            with about(image):
                for one in await each_platform(store, image, platform):
                    if manifest or config:
                        documents = await store.documents(image, platform=one)
                        click.echo(documents[0 if manifest else 1], nl=False)
                    else:
                        found.append(await store.describe(image, platform=one))
    if manifest or config:
        return
    if template is None:
        show_json(found)
        return
    for description in found:
        click.echo(template.render(description))
