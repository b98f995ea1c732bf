"""Waiting for a container's end, or for a limit that ends it."""

from __future__ import annotations

import asyncio

import msgspec

from mesocosm.engine import Engine
from mesocosm.errors import NotFound
from mesocosm.isolators.base import Isolator
from mesocosm.model import ContainerID, Exit, Limitation, Termination
from mesocosm.teardown import tear_down


async def watch_over(engine: Engine, container: ContainerID) -> Termination:
    """Wait until the payload ends or an isolator reports a limit, then destroy the container.

    Any number of processes may do this for one container: whoever holds its lock first does the work, the
    others find it done.
    """
    record = engine.records.load(container)
    if record.termination is not None:
        return record.termination
    ended = asyncio.create_task(engine.launcher.wait(engine.where(container).supervisor))
    watches = [
        asyncio.create_task(isolator.watch(container))
        for isolator in engine.isolators_of(record, acting=Isolator.watch)
    ]
    try:
        await asyncio.wait([ended, *watches], return_when=asyncio.FIRST_COMPLETED)
        ending = _conclude(ended, watches)
    finally:
        for task in (ended, *watches):
            task.cancel()
            engine.in_background(task)
    try:
        async with engine.locked(container):
            return await tear_down(engine, container, ending)
    except NotFound:  # somebody else has ended and removed it, so only we know how it ended
        return msgspec.structs.replace(ending, exit=ended.result() if _told(ended) else None)


def _told(ended: asyncio.Task[Exit | None]) -> bool:
    return ended.done() and not ended.cancelled() and ended.exception() is None


def _conclude(ended: asyncio.Task[Exit | None], watches: list[asyncio.Task[Limitation]]) -> Termination:
    for watch in watches:
        if watch.done() and watch.exception() is None:
            limitation = watch.result()
            return Termination(reason="limited", message=limitation.message, limitation=limitation)
    if ended.result() is None:
        return Termination(reason="lost", message="its supervisor was killed")
    return Termination(reason="exited")
