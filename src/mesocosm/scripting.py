"""One call for scripts: run a command in a container and have its output, exit code and usage.

>>> done = mesocosm.run("host", ["echo", "hello"], memory="256M")
>>> done.stdout
b'hello\\n'
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from mesocosm.containerizer import Containerizer
from mesocosm.errors import Exhausted, MesocosmError
from mesocosm.logs import Chunk
from mesocosm.model import (
    ContainerConfig,
    ContainerID,
    HostPathMount,
    Mount,
    NamespaceModes,
    Resources,
    Termination,
    Usage,
)
from mesocosm.model.size import parse_size
from mesocosm.paths import ROOT, RUNTIME

OUTPUT_LIMIT = 64 << 20


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """A container that has ended.

    ``exit_code`` is the payload's own, or 128 and the signal's number; ``reason`` says why it ended, as in
    Termination; ``message`` explains it for people when it did not end by itself.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    usage: Usage
    termination: Termination

    @property
    def reason(self) -> str:
        """Why it ended."""
        return self.termination.reason

    @property
    def message(self) -> str:
        """What there is to say about its end."""
        return self.termination.message

    def check(self) -> Completed:
        """This value when the payload succeeded; raises Failed otherwise."""
        if self.exit_code != 0:
            raise Failed(self)
        return self


class Failed(MesocosmError):
    """``Completed.check`` found an exit code other than 0; ``completed`` has everything."""

    code = "failed"

    def __init__(self, completed: Completed) -> None:
        tail = completed.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        said = completed.message or "".join(tail)
        super().__init__(f"the container ended with status {completed.exit_code}{': ' * bool(said)}{said}")
        self.completed = completed


def run(
    image: str | None,
    command: Sequence[str] = (),
    *,
    memory: str | int | None = None,
    cpus: float | None = None,
    pids: int | None = None,
    env: Mapping[str, str] | None = None,
    mounts: Mapping[str, str] | Sequence[Mount] = (),
    user: str | None = None,
    groups: Sequence[str] = (),
    workdir: str | None = None,
    network: Literal["none", "host"] = "none",
    read_only: bool = False,
    timeout: float | None = None,
    output_limit: int = OUTPUT_LIMIT,
    root: Path = ROOT,
    runtime: Path = RUNTIME,
) -> Completed:
    """Run ``command`` in a new container of ``image``, wait, and leave nothing behind.

    ``memory`` in bytes or as in ``"256M"``; ``mounts`` maps host paths to targets (add ``:ro`` to a target to
    make it read-only) or lists mounts; after ``timeout`` seconds the container is destroyed, and its reason
    is ``asked``.  More than ``output_limit`` bytes of output end the container and raise Exhausted.
    For use outside of an event loop.  Raises what Containerizer.create and start raise.
    """
    config = ContainerConfig(
        image=image,
        command=tuple(command),
        env=tuple(f"{key}={value}" for key, value in (env or {}).items()),
        resources=Resources(cpus=cpus, memory=_bytes(memory), pids=pids),
        mounts=_mounts(mounts),
        user=user,
        groups=tuple(groups),
        workdir=workdir,
        namespaces=NamespaceModes(net=network),
        read_only=read_only,
    )
    return asyncio.run(_run(config, timeout, output_limit, root, runtime))


async def _run(
    config: ContainerConfig, seconds: float | None, output_limit: int, root: Path, runtime: Path
) -> Completed:
    async with Containerizer.open(root=root, runtime=runtime) as containerizer:
        container = await containerizer.create(config)
        try:
            output = _Output(output_limit)
            reading = asyncio.ensure_future(output.take(containerizer.logs(container, follow=True)))
            await containerizer.start(container)
            termination = await _end(containerizer, container, reading, seconds)
            await reading
            return output.completed(termination)
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(containerizer.remove(container, force=True))


async def _end(
    containerizer: Containerizer,
    container: ContainerID,
    reading: asyncio.Future[None],
    seconds: float | None,
) -> Termination:
    ended = asyncio.ensure_future(containerizer.wait(container))
    both: set[asyncio.Future[Any]] = {ended, reading}
    done, _ = await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    if ended in done:
        return await ended
    message = "" if reading in done else f"it had not ended within {seconds:g} s"
    return await containerizer.destroy(container, message=message)


class _Output:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._streams = {"stdout": bytearray(), "stderr": bytearray()}

    async def take(self, chunks: AsyncIterator[Chunk]) -> None:
        async for chunk in chunks:
            self._streams[chunk.stream] += chunk.data
            if sum(map(len, self._streams.values())) > self._limit:
                raise Exhausted(
                    f"the container wrote more than {self._limit} bytes", hint="raise output_limit"
                )

    def completed(self, termination: Termination) -> Completed:
        return Completed(
            exit_code=termination.status,
            stdout=bytes(self._streams["stdout"]),
            stderr=bytes(self._streams["stderr"]),
            usage=termination.usage or Usage(),
            termination=termination,
        )


def _bytes(amount: str | int | None) -> int | None:
    return parse_size(amount, "memory") if isinstance(amount, str) else amount


def _mounts(mounts: Mapping[str, str] | Sequence[Mount]) -> tuple[Mount, ...]:
    if not isinstance(mounts, Mapping):
        return tuple(mounts)
    return tuple(
        HostPathMount(
            source=os.path.abspath(source),  # noqa: PTH100
            target=target.removesuffix(":ro"),
            read_only=target.endswith(":ro"),
        )
        for source, target in mounts.items()
    )
