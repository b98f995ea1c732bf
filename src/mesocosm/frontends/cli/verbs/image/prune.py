"""``mesocosm image prune``: remove what nobody needs."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import TYPE_CHECKING

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import grammar
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.layout import count
from mesocosm.images.foreign import shown
from mesocosm.isolators.words import size

if TYPE_CHECKING:
    from mesocosm.images.collect import Limits, Plan


@click.command()
@click.option("-a", "--all", "every", is_flag=True, help="Named images too, unless a container has them.")
@click.option("--older", metavar="TIME", help="Named images that nobody used for so long: 720h.")
@click.option("--budget", metavar="SIZE", help="Named images too, until no more than this is taken.")
@click.option("--above", metavar="PERCENT", help="Named images too, when more of the disk is in use: 85%.")
@click.option("--down-to", metavar="PERCENT", help="With --above: until no more is in use; 80% unless told.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context,
    every: bool,
    older: str | None,
    budget: str | None,
    above: str | None,
    down_to: str | None,
    dry_run: bool,
    force: bool,
    form: str,
) -> int:
    """Remove images that have no name, and layers that belong to none.

    What a container has, and what is pinned, stays.  On a terminal the plan is shown first.
    """
    limits = _limits(every, older, budget, _marks(above, down_to))
    async with opened(ctx) as containerizer:
        images = containerizer.images
        if not dry_run and not force and sys.stdin.isatty() and sys.stderr.isatty():
            intended = await images.prune(limits, dry_run=True)
            _tell(intended, "would be removed")
            if not intended.empty and not await _agreed():
                return 1
        plan = await images.prune(limits, dry_run=dry_run)
    if form == "json":
        show_json(plan)
        return 0
    for digest in plan.images:
        click.echo(digest)
    _tell(plan, "would be removed" if dry_run else "removed")
    return 0


def _limits(
    every: bool, older: str | None, budget: str | None, marks: tuple[float, float] | None
) -> Limits | None:
    from mesocosm.images.collect import Limits  # noqa: PLC0415

    age = grammar.seconds(older, "--older") if older else 0.0 if every else None
    if age is None and budget is None and marks is None:
        return None
    most = grammar.size(budget, "--budget") if budget else None
    if marks is None:
        return Limits(age=age, budget=most)
    return Limits(age=age, budget=most, high=marks[0], low=marks[1])


def _marks(above: str | None, down_to: str | None) -> tuple[float, float] | None:
    """The shares at which collection begins and ends."""
    if above is None:
        if down_to is not None:
            raise InvalidConfig("--down-to says where --above ends", hint="give --above, too")
        return None
    high = _share(above, "--above")
    low = min(0.8, high) if down_to is None else _share(down_to, "--down-to")
    if low > high:
        raise InvalidConfig(f"--down-to {down_to} is more than --above {above}")
    return high, low


def _share(text: str, option: str) -> float:
    match = re.fullmatch(r"([0-9]{1,3})%?", text, re.ASCII)
    if match is None or int(match[1]) > 100:
        raise InvalidConfig(f"{option} {shown(text, 40)!r} is no percentage", hint="85%, for example")
    return int(match[1]) / 100


async def _agreed() -> bool:
    """Ask on the terminal; a signal ends the waiting."""
    click.echo("mesocosm: remove that? [y/N] ", nl=False, err=True)
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(0, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(0)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell(plan: Plan, done: str) -> None:
    what = [
        count(len(plan.images), "image"),
        count(len(plan.layers), "layer"),
        count(len(plan.blobs), "blob"),
    ]
    click.echo(f"mesocosm: {', '.join(what)}, {size(plan.size)}: {done}", err=True)
