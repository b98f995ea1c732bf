"""``mesocosm image push``: have an image in a registry."""

from __future__ import annotations

import click

from mesocosm.errors import MesocosmError
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.events import Events, tell, tell_failure
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.progress import progress


@click.command(
    epilog=examples(
        ("mesocosm push registry.example/app:1", "under its own name"),
        ("mesocosm push debian:12 registry.example/debian:12", "as another"),
        ("mesocosm push --limit-rate 2m registry.example/app:1", "2 MiB a second"),
    )
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--platform", metavar="OS/ARCH|all", help="Which of an image's platforms.")
@click.option("--referrers", is_flag=True, help="What refers to the image too: signatures, SBOMs.")
@click.option("--limit-rate", metavar="SIZE", help="Bytes a second at the most, as in 2m.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="json: events.")
@click.argument("image", shell_complete=completion.images)
@click.argument("target", required=False)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context,
    quiet: bool,
    platform: str | None,
    referrers: bool,
    limit_rate: str | None,
    form: str,
    image: str,
    target: str | None,
) -> int:
    """Send IMAGE to a registry under its own name, or as TARGET (HOST/NAME:TAG), and print its digest.

    What the registry has is not sent again; what another of its repositories has is mounted from there.  With
    --platform all every platform that is here is sent, and an index that lists them with their attestations.
    --referrers sends what was pulled or loaded along with IMAGE; where nobody asked yet, its source is asked.
    """
    with progress(quiet=quiet or form == "json") as shown:
        told = Events() if form == "json" and not quiet else shown
        async with library(ctx, told, limit_rate) as store:
            try:
                digest = await store.push(image, target, platform=platform, referrers=referrers)
            except MesocosmError as error:
                if form == "json":
                    tell_failure(image, error)
                error.require_name(target or image)
                raise
    if form == "json":
        tell("pushed", image, digest=digest, target=target or image)
    else:
        click.echo(digest)
    return 0
