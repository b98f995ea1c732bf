"""``mesocosm exec``: a further process inside a container's isolation."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import click

from mesocosm import logs
from mesocosm.frontends.cli import completion, foreground, grammar
from mesocosm.frontends.cli.context import asynchronous, opened, signals_of
from mesocosm.frontends.cli.request import no_terminal
from mesocosm.frontends.cli.settings import ReaderGone

if TYPE_CHECKING:
    from mesocosm.session import Session


@click.command(context_settings={"allow_interspersed_args": False})
@no_terminal
@click.option("-i", "--interactive", is_flag=True, help="Give it our standard input.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for it; its output is dropped when it ends.")
@click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="Set an environment variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read environment variables from a file.")
@click.option("-w", "--workdir", metavar="DIR", help="Working directory inside.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Name or number, looked up in the container.")
@click.argument("container", shell_complete=completion.containers)
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
    with foreground.standard_input(interactive and not detach) as stdin:
        async with opened(ctx, launching=True) as containerizer:
            session = await containerizer.execute(
                containerizer.find(container),
                arguments,
                environment=grammar.environment(env, env_file),
                workdir=workdir,
                user=user,
                stdin=stdin.descriptor,
            )
            stdin.close()
            return 0 if detach else await _stay(ctx, session)


async def _stay(ctx: click.Context, session: Session) -> int:
    try:
        with foreground.forwarding(
            signals_of(ctx), session.signal, lambda: session.signal(signal.SIGKILL)
        ) as started:
            started.set()
            return await _see_it_through(session)
    finally:
        await session.close()


async def _see_it_through(session: Session) -> int:
    showing = asyncio.create_task(foreground.show(logs.read(session.output, ended=session.wait)))
    try:
        await showing
    except ReaderGone:
        await session.signal(signal.SIGKILL)
        raise
    finally:
        showing.cancel()
    return (await session.wait()).status
