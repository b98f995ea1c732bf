"""Bytes a second, with a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from mesocosm.errors import InvalidConfig
from mesocosm.images.registry.throttle import SLOWEST, Throttle


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def test_all_takers_together_stay_within_the_rate() -> None:
    clock = Clock()
    throttle = Throttle(1 << 20, clock=lambda: clock.now, sleep=clock.sleep)
    await asyncio.gather(*(throttle.take(1 << 19) for _ in range(4)))
    assert clock.slept == [0.5, 1.0, 1.5, 2.0]


async def test_nothing_is_saved_up_for_later() -> None:
    clock = Clock()
    throttle = Throttle(1 << 20, clock=lambda: clock.now, sleep=clock.sleep)
    await throttle.take(1 << 20)
    clock.now += 1000
    await throttle.take(1 << 20)
    assert clock.slept == [1.0, 1.0]


def test_a_rate_at_which_nothing_ends_is_refused() -> None:
    assert Throttle(SLOWEST)
    with pytest.raises(InvalidConfig, match="at least 16k"):
        Throttle(SLOWEST - 1)
