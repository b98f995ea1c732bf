"""Several works at a time, of which each has to succeed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from mesocosm.errors import MesocosmError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def side_by_side(
    work: Callable[[_Item], Awaitable[_Result]], items: Iterable[_Item], *, most: int
) -> list[_Result]:
    """Do the work for each item, at most ``most`` at a time, and return the results in the items' order.

    The first failure cancels the others, is waited for, and raised.
    """
    slots = asyncio.Semaphore(most)

    async def one(item: _Item) -> _Result:
        async with slots:
            return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except BaseExceptionGroup as failures:
        first = _first(failures)
        raise first from first.__cause__
    return [task.result() for task in tasks]


def _first(failures: BaseExceptionGroup) -> BaseException:
    """The failure to tell: one that says something to people before one that does not."""
    told = failures.subgroup(MesocosmError)
    first: BaseException = told or failures
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
