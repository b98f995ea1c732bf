"""``mesocosm image scrub``: for cron: the next part of everything, read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import grammar
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.layout import count
from mesocosm.frontends.cli.library import library
from mesocosm.isolators.words import size

if TYPE_CHECKING:
    from mesocosm.images.scrub import Scrubbed

SLOWEST = 16 << 10  # bytes a second


@click.command(
    epilog=examples(
        ("mesocosm image scrub --quiet --for 10m", "a part, from a timer"),
        ("mesocosm image scrub --rate 100m", "all, quicker"),
    )
)
@click.option(
    "--rate", metavar="SIZE", default="32m", help="Bytes to read each second at most.", show_default=True
)
@click.option("--for", "period", metavar="TIME", help="End after so long, as in 10m.")
@click.option("--check-only", is_flag=True, help="Bring nothing back.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless something is damaged.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context, rate: str, period: str | None, check_only: bool, quiet: bool, form: str
) -> int:
    """Read what is stored again while the disk is idle, and bring back what is damaged.

    Goes on where the last one ended, and begins anew after the last blob and layer. The exit status is 1 when
    something is still not as it should be.
    """
    seconds = grammar.seconds(period, "--for") if period else None
    most = grammar.size(rate, "--rate")
    if most < SLOWEST:
        raise InvalidConfig(f"--rate: {most} bytes a second would never end", hint="at least 16k")
    async with library(ctx) as store:
        done = await store.scrub(rate=most, seconds=seconds, repair=not check_only)
    left = done.damaged if check_only else done.left
    if form == "json":
        show_json(done)
    else:
        _tell(done, left, quiet=quiet)
    return int(bool(left))


def _tell(done: Scrubbed, left: tuple[str, ...], *, quiet: bool) -> None:
    for digest in done.damaged:
        click.echo(f"damaged {digest}: {'still so' if digest in left else 'brought back'}")
    if not quiet:
        words = count(done.checked, "blob or layer").replace("blob or layers", "blobs and layers")
        click.echo(f"{words}, {size(done.size)}: {'all done' if done.complete else 'to be continued'}")
