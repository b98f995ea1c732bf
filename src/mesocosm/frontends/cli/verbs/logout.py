"""``mesocosm logout``: forget credentials for a registry."""

from __future__ import annotations

import click

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
    from mesocosm.images.registry.session import logout, registry_name  # noqa: PLC0415
    from mesocosm.images.stores.docker import own_credentials  # noqa: PLC0415

    await logout(registry_name(registry), own_credentials())
