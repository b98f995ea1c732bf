"""One way down for every container, whatever state it is in and whatever ended it (parity 1.4, DES-1 … 11).

Record the decision; kill everything; let every isolator clean up, in reverse order; give the image back;
record the end.  A failing step never stops the others.  What failed is tried again, and the container says so
in its status until it is done: nothing is ever stuck (GAP-40).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Awaitable

import msgspec

from mesocosm import trace
from mesocosm.engine import Engine
from mesocosm.errors import CleanupError, MesocosmError, Unsupported
from mesocosm.isolators import registry
from mesocosm.isolators.base import Isolator
from mesocosm.lifecycle import Event, step
from mesocosm.linux import beneath
from mesocosm.model import ContainerID, Limitation, Termination, Usage
from mesocosm.records import Record

ATTEMPTS = 4
FULL = (errno.ENOSPC, errno.EDQUOT)
BACKOFF = 0.1  # seconds before the second attempt, doubled each time


async def tear_down(
    engine: Engine, container: ContainerID, ending: Termination, *, forget: bool = False
) -> Termination:
    """End a container, its lock being held.  Idempotent: an ended one answers how it ended.

    With ``forget``, or where its creator asked for that, nothing is kept of it.  A full disk keeps nobody
    from being ended: OSError then says what could not be written of it.  Raises CleanupError when something
    still could not be given back after some attempts; the container stays DESTROYING, and whoever comes next
    goes on with it.
    """
    record = engine.records.load(container)
    if record.termination is not None:
        return record.termination
    ending = record.status.ending or await _complete(engine, record, ending)
    record = _decided(engine, record, ending)
    record = await _until_clean(engine, record)
    trace.point("teardown.clean")
    evidence = engine.launcher.evidence(engine.where(container).supervisor)
    ending = msgspec.structs.replace(ending, exit=evidence.exit)
    return _finished(engine, record, ending, forget=forget or record.config.auto_remove)


def _decided(engine: Engine, record: Record, ending: Termination) -> Record:
    """The record DESTROYING, written; on a full disk it is so for us alone."""
    try:
        return engine.records.advance(record, Event.DESTROY, ending=ending)
    except OSError as error:
        if error.errno not in FULL:
            raise
    status = msgspec.structs.replace(record.status, state=step(record.state, Event.DESTROY), ending=ending)
    return msgspec.structs.replace(record, status=status)


def _finished(engine: Engine, record: Record, ending: Termination, *, forget: bool) -> Termination:
    if forget:
        engine.records.remove(record.id)  # to be forgotten, so how it ended need not be kept
    else:
        engine.records.finish(record, ending)
    return ending


async def purge(engine: Engine, container: ContainerID) -> None:
    """End and forget what has no readable record: kill by ID, clean up by ID, remove.  Idempotent."""
    await engine.host.cgroups.kill_all(str(container))
    for name in reversed(registry.names()):
        with contextlib.suppress(Unsupported):
            await engine.isolator(name).cleanup(container)
    await engine.host.cgroups.remove(str(container))
    await engine.provisioner.release(container)
    engine.records.remove(container)


async def _complete(engine: Engine, record: Record, ending: Termination) -> Termination:
    """Add what only the living cgroups can tell: usage, and a limit reached while nobody watched."""
    if record.status.process is None:
        return msgspec.structs.replace(ending, finished_at=time.time())
    usage = await usage_of(engine, record)
    limitation = ending.limitation
    if limitation is None and ending.reason in ("exited", "lost"):
        limitation = await _reached(engine, record)
    if limitation is not None:
        ending = Termination(reason="limited", message=limitation.message, limitation=limitation)
    return msgspec.structs.replace(ending, usage=usage, finished_at=time.time())


async def usage_of(engine: Engine, record: Record) -> Usage:
    """A reading from every isolator; what one of them cannot tell is left out (API-5)."""
    usage = Usage(timestamp=time.time())
    for isolator in engine.isolators_of(record, acting=Isolator.usage):
        try:
            usage = usage.merge(await isolator.usage(record.id))
        except (MesocosmError, OSError):
            continue
    return usage


async def _reached(engine: Engine, record: Record) -> Limitation | None:
    for isolator in engine.isolators_of(record, acting=Isolator.reached):
        limitation = await isolator.reached(record.id)
        if limitation is not None:
            return limitation
    return None


async def _until_clean(engine: Engine, record: Record) -> Record:
    backoff = BACKOFF
    for _ in range(ATTEMPTS - 1):
        failures = await _give_back(engine, record)
        if not failures:
            return record
        record = engine.records.note(record, failures=failures)
        await asyncio.sleep(backoff)
        backoff *= 2
    failures = await _give_back(engine, record)
    if not failures:
        return record
    engine.records.note(record, failures=failures)
    raise CleanupError(
        f"container {record.id} is not wholly cleaned up", failures, hint="every command tries again"
    )


async def _give_back(engine: Engine, record: Record) -> tuple[str, ...]:
    """Take every step; answer the sentences of those that failed."""
    failures: list[str] = []

    async def attempt(what: str, step: Awaitable[None]) -> None:
        try:
            await step
        except (MesocosmError, OSError) as error:
            failures.append(f"{what}: {error}")
        trace.point(f"teardown.{what}")

    await attempt("processes", _kill(engine, record))
    for isolator in reversed(engine.isolators_of(record, acting=Isolator.cleanup)):
        await attempt(isolator.name, isolator.cleanup(record.id))
    # The largest part first: a thread removes the root's changes meanwhile.
    await asyncio.gather(
        attempt("root", _remove_scratch(engine, record)),
        attempt("cgroups", engine.host.cgroups.remove(str(record.id))),
        attempt("image", engine.provisioner.release(record.id)),
    )
    return tuple(failures)


async def _kill(engine: Engine, record: Record) -> None:
    where = engine.where(record.id)
    await engine.host.cgroups.kill_all(str(record.id))
    # a supervisor ends by itself once its payload is gone; its last act is to write how
    for session in (where.supervisor, *where.sessions()):
        await engine.launcher.wait(session)


async def _remove_scratch(engine: Engine, record: Record) -> None:
    state = engine.where(record.id).state
    if not os.path.lexists(engine.where(record.id).scratch):
        return  # a root that took no changes, or none at all
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await asyncio.to_thread(beneath.remove_tree, directory, engine.where(record.id).scratch.name)
    except FileNotFoundError:
        pass
    finally:
        os.close(directory)
