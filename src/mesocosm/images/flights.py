"""One piece of work however many ask for it: whoever comes while it is under way waits for the same outcome.

Who stops waiting does not stop the work; when nobody waits any longer, it is cancelled (parity PRV-1).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Flights(Generic[Result]):
    """Work under way, by key.  Belongs to one event loop."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Result]] = {}
        self._waiting: dict[Hashable, int] = {}

    async def join(self, key: Hashable, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return the outcome of the work under ``key``, begun with ``work`` unless it is under way."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(_run(work))
            self._waiting[key] = 0
        self._waiting[key] += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._waiting[key] == 1 and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            raise
        finally:
            self._leave(key, task)

    def _leave(self, key: Hashable, task: asyncio.Task[Result]) -> None:
        self._waiting[key] -= 1
        if self._waiting[key] == 0:
            del self._waiting[key]
            if self._tasks.get(key) is task:
                del self._tasks[key]


async def _run(work: Callable[[], Awaitable[Result]]) -> Result:
    return await work()
