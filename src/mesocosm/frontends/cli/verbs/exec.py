"""``mesocosm exec``: a further process inside a container's isolation."""

from __future__ import annotations

import asyncio
import os

import click

from mesocosm import logs
from mesocosm.frontends.cli import foreground, grammar
from mesocosm.frontends.cli.context import asynchronous, opened


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Give it our standard input.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for it; its output is dropped when it ends.")
@click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="Set an environment variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read environment variables from a file.")
@click.option("-w", "--workdir", metavar="DIR", help="Working directory inside.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Name or number, looked up in the container.")
@click.argument("container")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context,
    interactive: bool,
    detach: bool,
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    workdir: str | None,
    user: str | None,
    container: str,
    arguments: tuple[str, ...],
) -> int:
    """Run ARGUMENTS inside CONTAINER: same namespaces, limits, capabilities and system call filter."""
    async with opened(ctx) as containerizer, foreground.standard_input(interactive and not detach) as stdin:
        session = await containerizer.execute(
            containerizer.find(container),
            arguments,
            environment=grammar.environment(env, env_file),
            workdir=workdir,
            user=user,
            stdin=stdin,
        )
        if stdin is not None:
            os.close(stdin)
        if detach:
            return 0
        try:
            with foreground.forwarding(session.signal, lambda: session.signal(9)):
                output = logs.read(session.output, ended=session.wait)
                showing = asyncio.create_task(foreground.show(output))
                ended = await session.wait()
                await showing
        finally:
            await session.close()
        return ended.status
