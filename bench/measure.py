"""Samples, taken in turns, and what is said of them."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple, TypeVar

Sample = Callable[[], Awaitable[float]]
Result = TypeVar("Result")
Unit = Literal["ms", "s", "per s", "KiB", "MiB", "calls"]
OURS = "mesocosm"
LIMIT = "the limit"
PAUSE = 0.05
"""Seconds between two samples."""


class Series(NamedTuple):
    """What one contender did, in the order of the rounds."""

    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle: what is reported."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The tenth and the ninetieth percentile; both ends of the values when there are few."""
        ordered = sorted(self.values)
        last = len(ordered) - 1
        return ordered[round(last * 0.1)], ordered[round(last * 0.9)]


class Comparison(NamedTuple):
    """Ours and one peer's, measured in the same rounds."""

    name: str
    unit: Unit
    ours: Series
    peer: Series

    @property
    def ratio(self) -> float:
        """Ours divided by the peer's."""
        return self.ours.median / self.peer.median

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Which direction is good."""
        return "higher" if self.unit == "per s" else "lower"


class Measured(NamedTuple):
    """One question and what every contender answered."""

    name: str
    unit: Unit
    series: tuple[Series, ...]

    def comparisons(self) -> list[Comparison]:
        """Ours against each peer; none when only peers were measured."""
        mine = [one for one in self.series if one.name == OURS]
        peers = [one for one in self.series if one.name != OURS]
        return [Comparison(self.name, self.unit, ours, peer) for ours in mine for peer in peers]


async def in_turns(
    name: str, unit: Unit, contenders: Mapping[str, Sample], *, rounds: int, warm_up: int = 2
) -> Measured:
    """Sample each contender once a round, in an order drawn anew each time, with a pause before each.

    Whatever the machine does meanwhile then falls on all of them alike, and what the kernel still clears
    away of one is not the next one's loss.  The first rounds are not counted.
    """
    order = list(contenders)
    draw = random.Random(len(order))  # noqa: S311  (the same order in every run)
    values: dict[str, list[float]] = {who: [] for who in order}
    for number in range(warm_up + rounds):
        for who in draw.sample(order, len(order)):
            await asyncio.sleep(PAUSE)
            value = await contenders[who]()
            if number >= warm_up:
                values[who].append(value)
    return Measured(name, unit, tuple(Series(who, tuple(found)) for who, found in values.items()))


def by_turns(contenders: Mapping[str, Callable[[], Result]], *, rounds: int) -> dict[str, list[Result]]:
    """Have each contender do its work once a round, each round beginning with another one.

    For work of seconds on file systems made anew: nothing is warmed up.
    """
    order = list(contenders)
    found: dict[str, list[Result]] = {who: [] for who in order}
    for number in range(rounds):
        start = number % len(order)
        for who in (*order[start:], *order[:start]):
            found[who].append(contenders[who]())
    return found


def limit(value: float) -> Series:
    """What is not to be exceeded, in the place of a peer."""
    return Series(LIMIT, (value,))
