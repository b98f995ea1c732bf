"""What lies in a container's root, read from outside: its changes, all of it as a tar, an image made of it.

The container goes on meanwhile, or is paused for as long as its root is read.  Nothing of it is entered or
run, and nothing in it is followed (images/layered.py).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from mesocosm.container_root import ContainerRoot, require_still_there, root_of
from mesocosm.engine import Engine
from mesocosm.errors import InvalidConfig
from mesocosm.images.stopping import stoppable, written_to
from mesocosm.model import ContainerID
from mesocosm.pause import paused

if TYPE_CHECKING:
    from mesocosm.images.committing import CommitRequest, Committed, Packed
    from mesocosm.images.compress import Written
    from mesocosm.images.spool import Spool


class RootChange(msgspec.Struct, frozen=True, kw_only=True):
    """One path that a container has added, changed or removed; absolute, undecodable bytes escaped as by
    ``os.fsdecode``.
    """

    path: str
    kind: Literal["added", "changed", "removed"]


class RootFiles:
    """The part of a containerizer that reads roots."""

    _engine: Engine

    async def changes(self, container: ContainerID) -> list[RootChange]:
        """What it has changed beside its image, by path; mount points, volumes' and our own, are left out.

        Raises WrongState when its root has gone with its end, InvalidConfig where its root is no image of
        layers, Unsupported where changes cannot be told from the image.
        """
        async with root_of(self._engine, container) as root:
            if self._engine.records.load(container).config.read_only:
                return []
            return await stoppable(lambda stopped: _changes(root, stopped))

    async def export(self, container: ContainerID, target: int, *, pause: bool = False) -> tuple[str, ...]:
        """Write its whole root to an open file as an uncompressed tar, without what is mounted in it.

        Answers in words what could not be written as it is: sockets, say.  With ``pause`` its processes stand
        still meanwhile.  Raises what `changes` does, and WrongState when it ends before all was read.
        """
        async with root_of(self._engine, container) as root, self._still(root, pause):
            left_out = await stoppable(lambda stopped: _export(root, target, stopped))
            require_still_there(self._engine, root)
        return left_out

    async def commit(
        self,
        container: ContainerID,
        name: str | None = None,
        *,
        author: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        compression: Written = "gzip",
        pause: bool = True,
        timestamp: float | None = None,
    ) -> Committed:
        """Make an image of its image and a layer of what it has changed, and name it ``HOST/NAME:TAG``.

        ``changes`` say anew what the image's process is, as in a Dockerfile (images/changes.py); what the
        container was started with is not taken over.  Its processes stand still while its root is read,
        unless ``pause`` is False.  ``timestamp``, in seconds since the epoch, is the image's date instead of
        now.  Raises what `changes` does, and what `Provisioner.commit` does.
        """
        from mesocosm.images.committing import CommitRequest

        request = CommitRequest(
            name=name,
            author=author,
            message=message,
            changes=tuple(changes),
            compression=compression,
            created=time.time() if timestamp is None else timestamp,
        )
        if self._engine.records.load(container).config.read_only:
            raise InvalidConfig(f"the root of container {container} is read-only: there is nothing to commit")
        async with root_of(self._engine, container) as root:

            async def layer(spool: Spool) -> Packed:
                return await self._pack(root, request, spool, pause)

            return await self._engine.provisioner.commit(
                root.image, root.reference, request, layer, backend=root.backend
            )

    async def _pack(self, root: ContainerRoot, request: CommitRequest, spool: Spool, pause: bool) -> Packed:
        """The layer, read under the container's lock: it cannot be given back meanwhile."""
        from mesocosm.images.committing import pack

        def packed(stopped: threading.Event) -> Packed:
            with root.compared(stopped) as diff:
                return pack(diff, spool, request.compression, stopped)

        async with self._engine.locked(root.container):
            require_still_there(self._engine, root)
            async with self._paused(root, pause):
                done = await stoppable(packed)
            require_still_there(self._engine, root)
        return done

    @contextlib.asynccontextmanager
    async def _still(self, root: ContainerRoot, pause: bool) -> AsyncIterator[None]:
        """Pause it under its lock, or do nothing at all."""
        if not pause:
            yield
            return
        async with self._engine.locked(root.container), self._paused(root, pause):
            yield

    @contextlib.asynccontextmanager
    async def _paused(self, root: ContainerRoot, pause: bool) -> AsyncIterator[None]:
        async with paused(self._engine, root.container) if pause and root.lives else contextlib.nullcontext():
            yield


def _changes(root: ContainerRoot, stopped: threading.Event) -> list[RootChange]:
    with root.compared(stopped) as diff:
        return [RootChange(path="/" + os.fsdecode(one.entry.path), kind=one.kind) for one in diff.walk()]


def _export(root: ContainerRoot, target: int, stopped: threading.Event) -> tuple[str, ...]:
    from mesocosm.images.root_tar import RootTar

    with root.opened() as layers, written_to(target, stopped) as put:
        writer = RootTar(layers, put, stopped=stopped)
        for entry in layers.walk():
            writer.add(entry)
        writer.finish()
    return tuple(writer.left_out)
