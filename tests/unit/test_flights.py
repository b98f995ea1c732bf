"""One piece of work however many ask for it (PRV-1, DKR-1)."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mesocosm.errors import Corrupt
from mesocosm.images.flights import Flights


class Work:
    """Work that waits to be let go, and counts its beginnings."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.started = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        self.started.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.begun


async def test_all_get_the_one_outcome() -> None:
    flights, work = Flights[int](), Work()
    waiting = [asyncio.ensure_future(flights.join("a", work)) for _ in range(10)]
    await work.started.wait()
    work.go.set()
    assert await asyncio.gather(*waiting) == [1] * 10
    assert await flights.join("a", work) == 2


async def test_keys_are_apart() -> None:
    flights, one, two = Flights[int](), Work(), Work()
    one.go.set()
    two.go.set()
    assert tuple(await asyncio.gather(flights.join("a", one), flights.join("b", two))) == (1, 1)


async def test_who_stops_waiting_stops_nobody_else() -> None:
    flights, work = Flights[int](), Work()
    first, second = (asyncio.ensure_future(flights.join("a", work)) for _ in range(2))
    await work.started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.go.set()
    assert await second == 1 and work.cancelled == 0


async def test_work_that_nobody_waits_for_is_cancelled() -> None:
    flights, work = Flights[int](), Work()
    waiting = [asyncio.ensure_future(flights.join("a", work)) for _ in range(3)]
    await work.started.wait()
    for one in waiting:
        one.cancel()
    for one in waiting:
        with contextlib.suppress(asyncio.CancelledError):
            await one
    assert work.cancelled == 1
    work.go.set()
    assert await flights.join("a", work) == 2


async def test_a_failure_is_everybodys_and_is_forgotten() -> None:
    async def fail() -> int:
        raise Corrupt("bytes")

    flights = Flights[int]()
    outcomes = await asyncio.gather(*(flights.join("a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Corrupt] * 3
    work = Work()
    work.go.set()
    assert await flights.join("a", work) == 1
