"""``mesocosm logs``: what a container wrote."""

from __future__ import annotations

import datetime
import time
from collections import deque
from collections.abc import AsyncIterator

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import completion, grammar
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.foreground import Outlet
from mesocosm.logs import Chunk


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with when it was written.")
@click.option("--since", metavar="TIME", help="Only what is newer: 2026-01-31T12:00:00, or an age as in 10m.")
@click.option("-n", "--tail", metavar="LINES", help="Only the last lines of what is there already.")
@click.argument("container", shell_complete=completion.containers)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context, follow: bool, timestamps: bool, since: str | None, tail: str | None, container: str
) -> None:
    """Show what CONTAINER wrote, its two streams on ours, in the order of writing."""
    async with opened(ctx) as containerizer:
        found = containerizer.find(container)
        begin = _moment(since)
        skip = 0
        if tail is not None and tail != "all":
            skip = await _lines_before(containerizer.logs(found, since=begin), _count(tail))
        lines = _Lines(timestamps=timestamps, skip=skip)
        outlet = Outlet()
        async for chunk in containerizer.logs(found, follow=follow, since=begin):
            if data := lines.of(chunk):
                await outlet.write(chunk.stream, data)


async def _lines_before(chunks: AsyncIterator[Chunk], keep: int) -> int:
    """How many line ends to pass before the last ``keep`` lines begin."""
    ends = 0
    last = b"\n"
    async for chunk in chunks:
        ends += chunk.data.count(b"\n")
        last = chunk.data[-1:] or last
    return max(0, ends + (last != b"\n") - keep)


class _Lines:
    """Lines counted and stamped."""

    def __init__(self, *, timestamps: bool, skip: int) -> None:
        self._timestamps = timestamps
        self._skip = skip
        self._fresh = {"stdout": True, "stderr": True}

    def of(self, chunk: Chunk) -> bytes:
        """What is to be shown of a chunk."""
        if not (self._skip or self._timestamps):
            return chunk.data
        pieces = deque(chunk.data.splitlines(keepends=True))
        while pieces and self._skip:
            self._skip -= pieces.popleft().endswith(b"\n")
        return b"".join(self._stamped(piece, chunk) for piece in pieces)

    def _stamped(self, piece: bytes, chunk: Chunk) -> bytes:
        fresh = self._fresh[chunk.stream]
        self._fresh[chunk.stream] = piece.endswith(b"\n")
        return _stamp(chunk.time) + piece if self._timestamps and fresh else piece


def _stamp(seconds: float) -> bytes:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ ").encode()


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return time.time() - grammar.seconds(text, "--since")
    return moment.timestamp()


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidConfig(f"--tail: {text!r} is not a number of lines")
    return int(text)
