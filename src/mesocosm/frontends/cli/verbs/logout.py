"""``mesocosm logout``: forget credentials for a registry."""

from __future__ import annotations

import os

import click

from mesocosm.errors import NotFound
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.examples import examples


@click.command(
    epilog=examples(
        ("mesocosm logout registry.example", "of one registry"),
    )
)
@click.argument("registry", default="docker.io")
@click.pass_context
@asynchronous
async def command(ctx: click.Context, registry: str) -> None:
    """Forget what login kept for REGISTRY (HOST[:PORT], docker.io without it)."""
    del ctx
    from mesocosm.images.registry.credentials import Credentials  # noqa: PLC0415
    from mesocosm.images.registry.session import registry_name  # noqa: PLC0415
    from mesocosm.images.stores.docker import credential_files  # noqa: PLC0415

    name = registry_name(registry)
    keeper = Credentials(credential_files(os.environ), environ=os.environ)
    if not await keeper.logout(name):
        raise NotFound(f"no credentials are kept for {name}")
