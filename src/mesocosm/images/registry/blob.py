"""One blob's bytes from a registry, from any offset on, across drops, stalls and lying ranges (attacks G-07).

Whatever the server does, what is yielded continues at the position asked for: a body that begins elsewhere
is thrown away and asked for again without a range, and then skipped up to the position.  The digest decides
at the end.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator

import aiohttp

from mesocosm.errors import Corrupt
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.foreign import parse_uint
from mesocosm.images.registry import body as bodies
from mesocosm.images.registry.faults import Transient
from mesocosm.images.registry.retry import Retry
from mesocosm.images.registry.transport import Transport

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII)


async def stream(
    transport: Transport, repository: str, descriptor: Descriptor, offset: int
) -> AsyncIterator[bytes]:
    """Yield the blob's bytes from ``offset`` on.

    Ends when ``descriptor.size`` bytes are through; what a server sends beyond is passed on, for the
    verifier to refuse. Raises NotFound, Denied, Corrupt (the server says another size), Unavailable after
    retries.
    """
    reading = _Reading(transport, repository, descriptor, offset)
    retry = Retry(transport.limits)
    while reading.position < descriptor.size:
        try:
            async with contextlib.aclosing(reading.attempt()) as chunks:
                async for chunk in chunks:
                    retry.progressed(len(chunk))
                    await transport.take(len(chunk))
                    yield chunk
            if reading.position < descriptor.size:
                raise Transient(f"{reading.what} ended after {reading.position} of {descriptor.size} bytes")
        except Transient as error:
            await transport.pause(retry, error)


async def size(transport: Transport, repository: str, digest: Digest) -> int | None:
    """Return a blob's size in bytes, by HEAD; None when the server does not tell.  Raises as `stream`."""
    reply = await transport.call(
        "HEAD",
        transport.url(f"{repository}/blobs/{digest}"),
        scope=f"repository:{repository}:pull",
        what=f"blob {digest} of {repository}",
    )
    return parse_uint(reply.headers.get("Content-Length", ""), 1 << 62)


class _Reading:
    def __init__(self, transport: Transport, repository: str, descriptor: Descriptor, offset: int) -> None:
        self.position = offset
        self.what = f"blob {descriptor.digest} of {repository}"
        self._transport = transport
        self._url = transport.url(f"{repository}/blobs/{descriptor.digest}")
        self._scope = f"repository:{repository}:pull"
        self._size = descriptor.size
        self._etag: str | None = None
        self._ranges = True

    async def attempt(self) -> AsyncGenerator[bytes, None]:
        """One request; yields from :attr:`position` on and moves it."""
        ranged = self._ranges and self.position > 0
        headers = {"Range": f"bytes={self.position}-"} if ranged else {}
        async with self._transport.exchange(
            "GET", self._url, scope=self._scope, what=self.what, headers=headers
        ) as response:
            await self._transport.expect(response, (200, 206, 416) if ranged else (200,), self.what)
            skip = self._bytes_to_skip(response, ranged)
            async for chunk in bodies.chunks(response, self._transport.limits, self.what):
                fresh = chunk[skip:] if skip else chunk
                skip -= len(chunk) - len(fresh)
                if fresh:
                    self.position += len(fresh)
                    yield fresh

    def _bytes_to_skip(self, response: aiohttp.ClientResponse, ranged: bool) -> int:
        """Return how many of the body's first bytes are known already; Transient when it cannot be used at
        all.
        """
        etag = response.headers.get("ETag")
        changed = self._etag is not None and etag is not None and etag != self._etag
        self._etag = etag or self._etag
        if response.status == 200:
            self._check_length(response)
            return self.position
        if ranged and response.status == 206 and not changed and self._is_rest(response):
            return 0
        self._ranges = False
        raise Transient(f"{self.what}: the registry answered a range request with another range")

    def _is_rest(self, response: aiohttp.ClientResponse) -> bool:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or response.content_type.startswith("multipart/"):
            return False
        total = self._size if match[3] == "*" else int(match[3])
        length = response.content_length
        first, last = int(match[1]), int(match[2])
        whole = (first, last + 1, total) == (self.position, self._size, self._size)
        return whole and length in (None, self._size - self.position)

    def _check_length(self, response: aiohttp.ClientResponse) -> None:
        length = response.content_length
        if length is not None and length != self._size and "Content-Encoding" not in response.headers:
            there = f"{length} bytes at {self._transport.registry}"
            raise Corrupt(
                f"{self.what} has {there}, its manifest says {self._size}",
                hint="the image is damaged there; have it pushed again",
            )
