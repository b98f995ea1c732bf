"""``mesocosm image prune``: remove what nobody needs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import grammar
from mesocosm.frontends.cli.colour import safe
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.layout import count
from mesocosm.frontends.cli.verbs.image.ls import familiar, short
from mesocosm.isolators.words import size

if TYPE_CHECKING:
    from mesocosm.images.collect import Held, Limits, Plan


@click.command(
    epilog=examples(
        ("mesocosm image prune", "what has no name"),
        ("mesocosm image prune --all --dry-run", "what could go at all"),
        ("mesocosm image prune --older 720h", "unused for thirty days"),
        ("mesocosm image prune --above 85% --down-to 70%", "when the disk is full"),
    )
)
@click.option("-a", "--all", "every", is_flag=True, help="Named images too, unless a container has them.")
@click.option("--older", metavar="TIME", help="Named images that nobody used for so long, as in 720h.")
@click.option(
    "--budget", metavar="SIZE", help="Named images too, until no more than this is taken, as in 20g."
)
@click.option(
    "--above",
    metavar="PERCENT|SIZE",
    help="Named images too, when more of the disk is in use (85%), or when images take more (20g).",
)
@click.option(
    "--down-to",
    metavar="PERCENT|SIZE",
    help="With --above: until no more is; 80%, or nine tenths of the size, unless given.",
)
@click.option("--auto", is_flag=True, help="What goes by itself after a pull, by /etc/mesocosm/images.toml.")
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
    auto: bool,
    dry_run: bool,
    force: bool,
    form: str,
) -> int:
    """Remove images that have no name, and layers that belong to none.

    What a container has, and what is pinned, stays.  On a terminal the plan is shown first.
    """
    limits = _limits(every, older, budget, above, down_to)
    if auto and limits is not None:
        raise InvalidConfig("--auto goes by the settings alone", hint="leave the other options out")
    async with opened(ctx) as containerizer:
        images = containerizer.images
        names = {one.digest: one.references for one in await images.images()}

        async def prune(*, dry_run: bool) -> Plan:
            if auto:
                return await images.prune_by_settings(dry_run=dry_run)
            return await images.prune(limits, dry_run=dry_run)

        if not dry_run and not force and sys.stdin.isatty() and sys.stderr.isatty():
            intended = await prune(dry_run=True)
            _tell(intended, names, "would be removed")
            if not intended.empty and not await _agreed():
                return 1
        plan = await prune(dry_run=dry_run)
    if form == "json":
        show_json(plan)
        return 0
    for digest in plan.images:
        click.echo(digest)
    _tell(plan, names, "would be removed" if dry_run else "removed")
    return 0


def _limits(
    every: bool, older: str | None, budget: str | None, above: str | None, down_to: str | None
) -> Limits | None:
    from mesocosm.images.collect import Limits  # noqa: PLC0415
    from mesocosm.images.water_marks import between  # noqa: PLC0415

    age = grammar.seconds(older, "--older") if older else 0.0 if every else None
    marks = between(above, down_to, "--above", "--down-to")
    if age is None and budget is None and marks is None:
        return None
    limits = msgspec.structs.replace(marks or Limits(), age=age)
    if budget is None:
        return limits
    if limits.budget is not None:
        raise InvalidConfig("--budget and --above are both amounts", hint="give one of them")
    return msgspec.structs.replace(limits, budget=grammar.size(budget, "--budget"))


def _holders(held: Held) -> str:
    """Who holds an image, in words."""
    owners = [owner.partition("-") for owner in held.owners]
    named = [f"container {name[:12]} has it" for kind, _, name in owners if kind == "container"]
    pinned = ["it is pinned"] if any(kind == "pin" for kind, _, _ in owners) else []
    return "; ".join((*pinned, *named)) or "it is being pulled"


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


def _called(digest: str, names: Mapping[str, Sequence[str]]) -> str:
    """An image's names and the beginning of its digest; the whole digest where it has no name."""
    known = names.get(digest)
    return f"{', '.join(safe(familiar(name)) for name in known)} ({short(digest)})" if known else digest


def _tell(plan: Plan, names: Mapping[str, Sequence[str]], done: str) -> None:
    """Say which named images it is about, who holds others, and how much there is in all."""
    for reason in plan.reasons:
        click.echo(f"mesocosm: {safe(reason.image)}, {size(reason.size)}: {reason.why}", err=True)
    for digest in () if plan.reasons else plan.images:
        if names.get(digest):
            click.echo(f"mesocosm: {_called(digest, names)}: {done}", err=True)
    for held in plan.held:
        click.echo(f"mesocosm: {_called(held.image, names)} stays: {_holders(held)}", err=True)
    if plan.empty:
        click.echo("mesocosm: nothing to remove", err=True)
        return
    what = [
        count(len(plan.images), "image"),
        count(len(plan.layers), "layer"),
        count(len(plan.blobs), "blob"),
    ]
    click.echo(f"mesocosm: {', '.join(what)}, {size(plan.size)}: {done}", err=True)
