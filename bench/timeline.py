"""Where the time of one launch goes, step by step: `make bench` writes PROFILE.md.

The steps are those that the program names itself: trace points on the side of whoever launches, and the
plan's steps in the child, timed on request.  The clock is one for all processes (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bench.measure import PAUSE
from bench.ours import Ours

Marks = list[tuple[str, int]]

CHILD = "child: "
SHOWN = 0.05
"""Milliseconds; shorter stretches are added to the one after them."""


class Stretch(NamedTuple):
    """What was done between two marks: how often in one launch, milliseconds in all, and when it ended."""

    name: str
    times: int
    spent: float
    ended: float


async def run(ours: Ours, *, rounds: int) -> list[Stretch]:
    """Launch with full isolation and keep the medians of every stretch."""
    found: list[list[Stretch]] = []
    for _ in range(rounds + 2):
        await asyncio.sleep(PAUSE)
        begun = time.monotonic_ns()
        found.append(list(stretches(begun, await ours.launch_timed())))
    return medians(found[2:])


def stretches(begun: int, marks: Marks) -> Iterator[Stretch]:
    """From mark to mark; steps of one kind that follow each other are one stretch."""
    name, times, start = "", 0, begun
    ordered = sorted(marks, key=lambda mark: mark[1])
    for (what, at), (following, _) in pairwise([*ordered, ("", 0)]):
        name, times = what, times + 1
        if following == what:
            continue
        yield Stretch(name, times, (at - start) / 1e6, (at - begun) / 1e6)
        times, start = 0, at


def medians(launches: Sequence[Sequence[Stretch]]) -> list[Stretch]:
    """One list of the launches' stretches, in the order in which they usually end."""
    by_name: dict[tuple[str, int], list[Stretch]] = {}
    for launch in launches:
        seen: dict[str, int] = {}
        for one in launch:
            seen[one.name] = seen.get(one.name, 0) + 1
            by_name.setdefault((one.name, seen[one.name]), []).append(one)
    usual = [group for group in by_name.values() if len(group) * 2 > len(launches)]
    merged = [
        Stretch(
            group[0].name,
            group[0].times,
            statistics.median(one.spent for one in group),
            statistics.median(one.ended for one in group),
        )
        for group in usual
    ]
    return sorted(merged, key=lambda one: one.ended)


def shown(found: Sequence[Stretch]) -> Iterator[Stretch]:
    """The stretches worth a line; what is shorter is part of the next."""
    spent = 0.0
    for one in found:
        spent += one.spent
        if spent >= SHOWN or one is found[-1]:
            yield one._replace(spent=spent)
            spent = 0.0


def write(folder: Path, found: Sequence[Stretch], conditions: Mapping[str, str]) -> None:
    """Rewrite ``PROFILE.md``."""
    (folder / "PROFILE.md").write_text("\n".join(page(found, conditions)) + "\n")


def page(found: Sequence[Stretch], conditions: Mapping[str, str]) -> Iterator[str]:
    """The lines of PROFILE.md."""
    yield "# Where the time of one launch goes"
    yield ""
    yield "Written by `make bench`: `true` in a busybox root with full isolation, medians of many"
    yield "launches, in milliseconds. A name is what had been done when the stretch ended: a trace point of"
    yield "the program, or, after *child*, a step of the plan, see `mesocosm explain`. Child and launcher"
    yield "work side by side, so a stretch may hold work of both. Those below"
    yield f"{SHOWN:.2f} are part of the next one."
    yield ""
    yield "| Until | Spent | Since the request |"
    yield "|---|--:|--:|"
    for one in shown(found):
        times = f" × {one.times}" if one.times > 1 else ""
        yield f"| {one.name}{times} | {one.spent:.2f} | {one.ended:.2f} |"
    yield ""
    yield "## Conditions"
    yield ""
    yield from (f"- {name}: {value}" for name, value in conditions.items())
