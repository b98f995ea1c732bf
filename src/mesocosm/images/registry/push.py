"""Pushing one blob: mount, monolithic or in chunks that survive a broken connection (distribution spec,
"Push").
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from yarl import URL

from mesocosm.errors import Corrupt, Denied, MesocosmError, NotFound, Unavailable
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.foreign import parse_uint
from mesocosm.images.progress import Phase, Progress, Report
from mesocosm.images.registry import blob
from mesocosm.images.registry.faults import Transient
from mesocosm.images.registry.retry import Retry
from mesocosm.images.registry.transport import Reply, Transport, with_query

UploadSource = Callable[[int, int], AsyncIterator[bytes]]
"""Yields ``count`` bytes of the blob from ``offset`` on; may be asked again after a failure."""

PIECE: Final = 16 << 20
"""Bytes of a chunk of what one request could not carry: a broken connection costs at most as much."""

PARTING: Final = 2.0
"""Seconds in which a registry is told that an upload is given up."""

_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})", re.ASCII)


def scope(repository: str) -> str:
    """Return the token scope for pushing."""
    return f"repository:{repository}:pull,push"


def require_stored_as(digest: Digest, headers: Mapping[str, str], what: str) -> None:
    """Raise Corrupt where a registry says that it stored what was sent under another digest.

    One of another algorithm may stand for the same bytes (distribution spec, "Pushing blobs").
    """
    claimed = headers.get("Docker-Content-Digest")
    if claimed is not None and claimed != str(digest) and claimed.startswith(f"{digest.algorithm}:"):
        raise Corrupt(f"{what}: the registry stored it under another digest")


class Upload:
    """One blob on its way out."""

    def __init__(
        self,
        transport: Transport,
        repository: str,
        descriptor: Descriptor,
        source: UploadSource,
        report: Report,
    ) -> None:
        self._transport = transport
        self._repository = repository
        self._descriptor = descriptor
        self._source = source
        self._report = report
        self._scope = scope(repository)
        self._what = f"upload of {descriptor.digest} to {repository}"
        self._sent = 0
        self._failure: Exception | None = None
        """What the source failed with; the connection on which that happened only broke."""
        self._session: URL | None = None
        """Where the registry takes the upload at hand."""

    async def run(self, mount_from: str | None, chunk: int | None) -> bool:
        """Mount or upload; False when mounted."""
        started = await self._begin(mount_from)
        if started.status == 201:
            self._tell(already=True)
            return False
        location = self._location(started)
        try:
            if chunk:
                await self._send_chunks(location, max(chunk, _least(started)))
            else:
                await self._send_whole(location)
        except BaseException:
            await self._give_up()
            raise
        self._tell(finished=True)
        return True

    async def _give_up(self) -> None:
        """Have the registry drop what it was sent, which it would keep for days (Docker Registry HTTP API V2,
        "Canceling an Upload").  It is told once: one that is gone, or knows
        of no such thing, changes nothing.
        """
        session, self._session = self._session, None
        if session is None:
            return
        with contextlib.suppress(MesocosmError, TimeoutError):
            async with (
                asyncio.timeout(PARTING),
                self._transport.exchange("DELETE", session, scope=self._scope, what=self._what),
            ):
                pass

    async def _begin_anew(self) -> Reply:
        """One upload after another: the registry has no use for the one that cannot be gone on with."""
        await self._give_up()
        return await self._begin(None)

    async def _begin(self, mount_from: str | None) -> Reply:
        url = self._transport.url(f"{self._repository}/blobs/uploads/")
        wanted = self._scope
        if mount_from is not None:
            url = with_query(url, "mount", str(self._descriptor.digest))
            url = with_query(url, "from", mount_from)
            wanted += f" repository:{mount_from}:pull"
        return await self._transport.call("POST", url, scope=wanted, what=self._what, accept=(201, 202))

    async def _send_whole(self, location: URL) -> None:
        """Send all in one request, which every registry takes; what breaks off is sent in chunks, unless the
        registry will have none.
        """
        retry, chunks = Retry(self._transport.limits), self._descriptor.size > PIECE
        while True:
            try:
                return await self._put(location, 0, self._descriptor.size)
            except Transient as error:
                await self._pause(retry, error)
            started = await self._begin_anew()
            location = self._location(started)
            if chunks:
                try:
                    return await self._send_chunks(location, max(PIECE, _least(started)))
                except (Denied, Corrupt):
                    raise
                except MesocosmError:
                    chunks, location = False, self._location(await self._begin_anew())

    async def _send_chunks(self, location: URL, size: int) -> None:
        retry = Retry(self._transport.limits)
        offset = 0
        while offset < self._descriptor.size:
            count = min(size, self._descriptor.size - offset)
            try:
                location = await self._patch(location, offset, count)
                offset += count
                retry.progressed(count)
            except Transient as error:
                await self._pause(retry, error)
                location, offset = await self._where(location)
        await self._finish(location)

    async def _pause(self, retry: Retry, error: Transient) -> None:
        """Wait before the registry is tried again; what our own side failed with is raised instead."""
        if self._failure is not None:
            raise self._failure from None
        await self._transport.pause(retry, error)

    async def _patch(self, location: URL, offset: int, count: int) -> URL:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{offset}-{offset + count - 1}",
            "Content-Length": str(count),
        }
        async with self._transport.exchange(
            "PATCH",
            location,
            scope=self._scope,
            what=self._what,
            headers=headers,
            body=lambda: self._body(offset, count),
            patience=self._patience(count),
        ) as response:
            if response.status in (404, 416):
                raise Transient(f"{self._what}: the registry expects another range, or has forgotten it")
            await self._transport.expect(response, (202,), self._what)
            reply = Reply(response.status, response.headers, b"", str(response.url))
        return self._location(reply)

    async def _where(self, location: URL) -> tuple[URL, int]:
        """Ask how far the upload got; a session the registry has forgotten begins anew."""
        try:
            reply = await self._transport.call(
                "GET", location, scope=self._scope, what=self._what, accept=(204, 404)
            )
        except Unavailable:
            return self._location(await self._begin_anew()), 0
        if reply.status == 404:
            return self._location(await self._begin(None)), 0
        match = _RANGE.fullmatch(reply.headers.get("Range", ""))
        last = parse_uint(match[1], self._descriptor.size - 1) if match else None
        held = 0 if last is None else last + 1
        return self._location(reply), 0 if held == 1 else held

    async def _put(self, location: URL, offset: int, count: int) -> None:
        """Close the upload with its digest, sending the last ``count`` bytes along."""
        url = with_query(location, "digest", str(self._descriptor.digest))
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(count)}
        async with self._transport.exchange(
            "PUT",
            url,
            scope=self._scope,
            what=self._what,
            headers=headers,
            body=(lambda: self._body(offset, count)) if count else b"",
            patience=self._patience(count),
        ) as response:
            await self._transport.expect(response, (201, 202, 204), self._what)
            require_stored_as(self._descriptor.digest, response.headers, self._what)

    async def _finish(self, location: URL) -> None:
        retry = Retry(self._transport.limits)
        try:
            await self._transport.retrying(lambda: self._put(location, self._descriptor.size, 0), retry)
        except NotFound:  # closed already, by a request whose answer was lost?
            if not await blob.is_there(self._transport, self._repository, self._descriptor.digest):
                raise

    async def _body(self, offset: int, count: int) -> AsyncIterator[bytes]:
        self._sent = offset
        try:
            async for chunk in self._source(offset, count):
                await self._transport.take(len(chunk))
                yield chunk
                self._sent += len(chunk)
                self._tell()
        except Exception as error:
            self._failure = error
            raise

    def _location(self, reply: Reply) -> URL:
        where = reply.headers.get("Location")
        self._session = self._transport.follow(reply.url, where, f"the {self._what}")
        return self._session

    def _patience(self, count: int) -> float:
        return count / max(1, self._transport.limits.min_rate)

    def _tell(self, *, already: bool = False, finished: bool = False) -> None:
        size = self._descriptor.size
        done = size if already or finished else self._sent
        self._report(
            Progress(
                Phase.UPLOAD,
                str(self._descriptor.digest),
                done,
                size,
                already=already,
                finished=already or finished,
            )
        )


def _least(started: Reply) -> int:
    """The fewest bytes that the registry takes as a chunk, but for the last (distribution spec, "Pushing a
    blob in chunks"); 0 when it does not say.
    """
    return parse_uint(started.headers.get("OCI-Chunk-Min-Length", ""), 1 << 30) or 0
