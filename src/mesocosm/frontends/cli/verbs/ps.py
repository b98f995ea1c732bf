"""``mesocosm ps``: which containers there are, and how they are."""

from __future__ import annotations

import sys
import time

import click

from mesocosm.frontends.cli.colour import Paint, painter, plain, safe
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.ending import status_of
from mesocosm.frontends.cli.layout import age, columns, cut
from mesocosm.frontends.cli.listing import Filter, containers
from mesocosm.lifecycle import State
from mesocosm.reports import Report

TITLES = ("ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME")
WIDTHS = (0, 32, 24, 0, 0, 0)
"""Longest text of each column before it is cut; 0 is never."""
LONGEST = 40
"""Of the words about why it is as it is."""


@click.command()
@click.option("-a", "--all", "every", is_flag=True, help="Ended ones too.")
@click.option("-q", "--quiet", is_flag=True, help="Only IDs, in full.")
@click.option("--no-trunc", is_flag=True, help="Cut nothing.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only those with this name, id, status, label or image.",
)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="How to print.")
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context, every: bool, quiet: bool, no_trunc: bool, filters: tuple[str, ...], form: str
) -> None:
    """List containers that have not ended, oldest first."""
    wanted = Filter(filters)
    every = every or wanted.asks_for_ended
    found = [
        report
        for report in await containers(ctx)
        if wanted.admits(report) and (every or report.state is not State.DESTROYED)
    ]
    if quiet:
        for report in found:
            click.echo(report.id)
    elif form == "json":
        show_json(found)
    else:
        click.echo(table(found, now=time.time(), whole=no_trunc, paint=painter(sys.stdout)))


def table(reports: list[Report], *, now: float, whole: bool = False, paint: Paint = plain) -> str:
    """The containers as a table; ``now`` in seconds since the epoch."""
    rows = [_row(report, now, whole) for report in reports]
    return columns(rows, header=TITLES, paint=paint)


def _row(report: Report, now: float, whole: bool) -> list[str]:
    row = [
        report.id,
        safe(report.config.image or "none"),
        safe(_command(report)),
        f"{age(max(0.0, now - report.created_at))} ago",
        status_of(report, now, longest=None if whole else LONGEST),
        report.name or "",
    ]
    if whole:
        return row
    row[0] = row[0][:12]
    return [cut(cell, wide) if wide else cell for cell, wide in zip(row, WIDTHS, strict=True)]


def _command(report: Report) -> str:
    words = (*(report.config.entrypoint or ()), *report.config.command)
    return " ".join(words) if words else "the image's"
