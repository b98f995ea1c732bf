"""``mesocosm image history``: how an image was made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.colour import Paint, plain, safe
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.layout import age, columns, cut
from mesocosm.frontends.cli.library import each_platform, library
from mesocosm.frontends.cli.output import Row, format_help, show
from mesocosm.frontends.cli.verbs.image.ls import short
from mesocosm.isolators.words import size

if TYPE_CHECKING:
    from mesocosm.images.inspection import Step

TITLES = ("LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT")
WIDTH = 60
"""Longest words about a step before they are cut."""


MEMBERS = ("ID", "CreatedAt", "CreatedSince", "CreatedBy", "Size", "Comment")
"""Of an item of the list, for templates."""


@click.command(
    epilog=examples(
        ("mesocosm history debian:12", "step by step"),
        ("mesocosm history --no-trunc --format '{{.CreatedBy}}' debian:12", "whole commands"),
    )
)
@click.option("-q", "--quiet", is_flag=True, help="Only diff IDs.")
@click.option("--no-trunc", is_flag=True, help="Cut nothing.")
@click.option("--platform", metavar="OS/ARCH|all", help="Which of an image's platforms.")
@click.option("--format", "form", default="table", metavar="FORMAT", help=format_help(*MEMBERS))
@click.argument("image", shell_complete=completion.images)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context, quiet: bool, no_trunc: bool, platform: str | None, form: str, image: str
) -> None:
    """Show how IMAGE was made by its author's own account, the latest step first.

    With --platform all one list for each platform that is here; as JSON an object with a list for each.
    """
    async with library(ctx) as store:
        several = {
            one or "": await store.history(image, platform=one)
            for one in await each_platform(store, image, platform)
        }
    now = time.time()
    if platform == "all" and form == "json":
        show_json(several)
        return
    for name, steps in several.items():
        if platform == "all" and form == "table" and not quiet:
            click.echo(f"{name}:")
        _show(steps, form, now, quiet=quiet, whole=no_trunc)


def _show(steps: Sequence[Step], form: str, now: float, *, quiet: bool, whole: bool) -> None:
    if quiet:
        for step in steps:
            if step.layer:
                click.echo(step.layer)
        return
    show(
        form,
        lambda paint: table(steps, now=now, whole=whole, paint=paint),
        lambda: rows(steps, now=now, whole=whole),
        steps,
    )


def table(steps: Sequence[Step], *, now: float, whole: bool = False, paint: Paint = plain) -> str:
    """The steps as a table; ``now`` in seconds since the epoch."""
    cells = [[safe(str(value)) for value in row.values()] for row in rows(steps, now=now, whole=whole)]
    return columns([[row[0], *row[2:]] for row in cells], header=TITLES, paint=paint)


def rows(steps: Sequence[Step], *, now: float, whole: bool = False) -> list[Row]:
    """The steps, for templates."""
    return [_row(step, now, whole) for step in steps]


def _row(step: Step, now: float, whole: bool) -> Row:
    layer = step.layer or "<none>"
    words = " ".join(step.created_by.split())
    return {
        "ID": layer if whole or not step.layer else short(layer),
        "CreatedAt": step.created,
        "CreatedSince": _since(step.created, now),
        "CreatedBy": words if whole else cut(words, WIDTH),
        "Size": size(step.size) if step.layer else "0 bytes",
        "Comment": step.comment if whole else cut(step.comment, WIDTH),
    }


def _since(created: str, now: float) -> str:
    import datetime  # noqa: PLC0415

    try:
        when = datetime.datetime.fromisoformat(created)
    except ValueError:
        return "-"
    if when.tzinfo is None:
        return "-"
    return f"{age(max(0.0, now - when.timestamp()))} ago"
