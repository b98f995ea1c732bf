"""An upper bound on the bytes a second that transfers take, all together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from mesocosm.errors import InvalidConfig
from mesocosm.model.size import size

SLOWEST: Final = 16 << 10
"""Bytes per second: below, registries take a patient client for a dead one."""


class Throttle:
    """Shared by all connections of one program; belongs to one event loop."""

    def __init__(
        self,
        rate: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``rate`` in bytes per second; InvalidConfig below `SLOWEST`."""
        if rate < SLOWEST:
            raise InvalidConfig(f"{size(rate)} a second is too slow", hint=f"at least {SLOWEST >> 10}k")
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Wait until ``count`` more bytes are within the rate; nothing is saved up while nobody asks."""
        now = self._clock()
        self._free_at = max(self._free_at, now) + count / self._rate
        await self._sleep(self._free_at - now)
