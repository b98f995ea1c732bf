"""``mesocosm stats``: what containers use, once or as it changes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from mesocosm.errors import NotFound
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.colour import Paint, painter, plain
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.layout import columns, duration, share
from mesocosm.isolators.words import size
from mesocosm.lifecycle import State
from mesocosm.model import ContainerID, Usage

if TYPE_CHECKING:
    from mesocosm.containerizer import Containerizer

INTERVAL = 1.0  # seconds between readings that are shown
FIRST = 0.25  # seconds between the two readings of --no-stream
TITLES = ("ID", "NAME", "CPU", "CPU TIME", "MEMORY", "LIMIT", "MEMORY %", "PROCESSES")


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One container's usage; ``cpu_percent`` of one processor since the reading before."""

    id: str
    name: str | None
    cpu_percent: float | None
    usage: Usage


@click.command()
@click.option("--no-stream", is_flag=True, help="One reading, then end.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="How to print.")
@click.argument("containers", nargs=-1, shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(ctx: click.Context, no_stream: bool, form: str, containers: tuple[str, ...]) -> None:
    """Show what CONTAINERS use, all running ones unless named, until Ctrl-C or none is left."""
    async with opened(ctx) as containerizer:
        wanted = tuple(containerizer.find(name) for name in containers)
        before = await _read(containerizer, wanted, {})
        await asyncio.sleep(FIRST)
        live = sys.stdout.isatty() and not no_stream and form == "table"
        while True:
            readings = await _read(containerizer, wanted, before)
            if form == "json":
                show_json(list(readings.values()), indent=2 if no_stream else 0)
            else:
                text = table(list(readings.values()), painter(sys.stdout))
                click.echo(f"\x1b[H\x1b[J{text}" if live else text)
            if no_stream or (wanted and not readings):
                return
            before = readings
            await asyncio.sleep(INTERVAL)


async def _read(
    containerizer: Containerizer, wanted: Sequence[ContainerID], before: Mapping[str, Reading]
) -> dict[str, Reading]:
    readings = {}
    for report in containerizer.list():
        container = ContainerID.parse(report.id)
        if (wanted and container not in wanted) or report.state not in (State.CREATED, State.RUNNING):
            continue
        try:
            usage = await containerizer.usage(container)
        except NotFound:
            continue  # removed since it was listed
        earlier = before.get(report.id)
        percent = busy(earlier.usage, usage) if earlier else None
        readings[report.id] = Reading(id=report.id, name=report.name, cpu_percent=percent, usage=usage)
    return readings


def busy(before: Usage, now: Usage) -> float | None:
    """Per cent of one processor between two readings; None when one of them lacks what it takes."""
    if None in (before.cpu_seconds, now.cpu_seconds, before.timestamp, now.timestamp):
        return None
    passed = (now.timestamp or 0) - (before.timestamp or 0)
    return 100 * ((now.cpu_seconds or 0) - (before.cpu_seconds or 0)) / passed if passed > 0 else None


def table(readings: Sequence[Reading], paint: Paint = plain) -> str:
    """The readings as a table; ``-`` is what nobody measured."""
    return columns([_row(reading) for reading in readings], header=TITLES, paint=paint)


def _row(reading: Reading) -> list[str]:
    usage = reading.usage
    pids = "-" if usage.pids is None else str(usage.pids)
    return [
        reading.id[:12],
        reading.name or "-",
        "-" if reading.cpu_percent is None else f"{reading.cpu_percent:.1f} %",
        "-" if usage.cpu_seconds is None else duration(usage.cpu_seconds),
        "-" if usage.memory is None else size(usage.memory),
        "-" if usage.memory_limit is None else size(usage.memory_limit),
        "-" if usage.memory is None or not usage.memory_limit else share(usage.memory, usage.memory_limit),
        pids if usage.pids_limit is None else f"{pids} of {usage.pids_limit}",
    ]
