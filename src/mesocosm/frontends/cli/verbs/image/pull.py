"""``mesocosm image pull``: have images on this host."""

from __future__ import annotations

import click

from mesocosm.errors import MesocosmError
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.events import Events, tell, tell_failure
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.progress import progress
from mesocosm.frontends.cli.saying import say


@click.command(
    epilog=examples(
        ("mesocosm pull debian:12", "from docker.io"),
        ("mesocosm pull --platform all registry.example/app:1", "every platform"),
        ("mesocosm pull oci-archive:debian.tar:debian:12", "out of an archive"),
    )
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--platform", metavar="OS/ARCH|all", help="Which of an image's platforms.")
@click.option("--referrers", is_flag=True, help="What refers to the image too: signatures, SBOMs.")
@click.option("--backend", metavar="NAME", help="What layers are made ready for: erofs, overlay, copy.")
@click.option(
    "--policy",
    type=click.Choice(["always", "missing", "never", "newer"]),
    default="always",
    show_default=True,
    help="When to ask where an image comes from.",
)
@click.option("--limit-rate", metavar="SIZE", help="Bytes a second at the most, as in 2m.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="json: events.")
@click.argument("images", nargs=-1, required=True)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context,
    quiet: bool,
    platform: str | None,
    referrers: bool,
    backend: str | None,
    policy: str,
    limit_rate: str | None,
    form: str,
    images: tuple[str, ...],
) -> int:
    """Ask where IMAGES come from for what they are now, fetch what is missing, and print their digests.

    An image is docker.io's name, HOST/NAME:TAG, a PATH behind oci:, oci-archive:, docker-archive:,
    tarball:, aci: or erofs:, or appc:NAME.  With --platform all every Linux platform comes that the
    source has, under one name, with the attestations in its index.
    """
    status = 0
    with progress(quiet=quiet or form == "json") as shown:
        told = Events() if form == "json" and not quiet else shown
        async with library(ctx, told, limit_rate) as store:
            for image in images:
                try:
                    if platform == "all":
                        found = await store.pull_all(
                            image, policy=policy, backend=backend, referrers=referrers
                        )
                    else:
                        one = await store.pull(
                            image, policy=policy, platform=platform, backend=backend, referrers=referrers
                        )
                        found = [one]
                except MesocosmError as error:
                    shown.rest()
                    status = 1
                    if form == "json":
                        tell_failure(image, error)
                    error.require_name(image)
                    say(str(error))
                else:
                    shown.rest()
                    for one in found:
                        if form == "json":
                            tell("pulled", image, digest=one.digest, platform=one.platform)
                        else:
                            click.echo(one.digest)
    return status
