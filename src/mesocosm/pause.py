"""A container whose processes stand still while its root is read, and go on whatever becomes of us.

A process of its own waits for our end and lets them go on then, also after a SIGKILL.  Should that one be
killed too, a mark has the next command do it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence

from mesocosm import durable, trace
from mesocosm.engine import Engine
from mesocosm.errors import Busy
from mesocosm.model import ContainerID

_DONE = b"."
_RESUME = f"""
import sys
if sys.stdin.buffer.read(1) != {_DONE!r}:
    for path, word in zip(sys.argv[1::2], sys.argv[2::2]):
        try:
            with open(path, "w") as file:
                file.write(word)
        except OSError:
            pass
"""


@contextlib.asynccontextmanager
async def paused(engine: Engine, container: ContainerID) -> AsyncIterator[None]:
    """Keep a container paused, its lock being held.  Raises Busy when it does not stop, Unsupported."""
    cgroups, mark = engine.host.cgroups, engine.where(container).paused
    with _resumed_at_our_end(cgroups.thawing(str(container))):
        durable.replace(mark, b"")
        try:
            trace.point("pause.marked")
            await _freeze(engine, container)
            trace.point("pause.frozen")
            yield
        finally:
            resume(engine, container)


async def _freeze(engine: Engine, container: ContainerID) -> None:
    try:
        await engine.host.cgroups.freeze(str(container))
    except TimeoutError as error:
        raise Busy(
            f"container {container} cannot be paused: one of its processes does not stop",
            hint="it waits for a device; try again, or do without (--no-pause)",
        ) from error


def resume(engine: Engine, container: ContainerID) -> None:
    """Let a container go on that was left paused; nothing to do for all others."""
    mark = engine.where(container).paused
    if mark.exists():
        engine.host.cgroups.thaw(str(container))
        mark.unlink(missing_ok=True)


@contextlib.contextmanager
def _resumed_at_our_end(thawing: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Have a process write these files when we end without leaving the context.

    It is in a session of its own, so that what ends a terminal's or a job's processes leaves it alone.
    """
    words = [word for pair in thawing for word in pair]
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _RESUME, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    ) as waiting:
        try:
            yield
        finally:
            waiting.communicate(_DONE)
