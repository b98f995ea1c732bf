"""One file's bytes from a server, in order, from any position on, over as many requests as it takes: across
drops, stalls, and ranges that are not what was asked for (attacks G-06, G-07).

Whatever the server does, the bytes continue at the position asked for.  A body that begins at the file's
beginning is skipped up to there, while it is known to be the same file: by its digest, or by a strong
validator.  Else everything begins anew, and whoever takes the bytes is told.  A range that is another one is
thrown away, and no range is asked for again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

import aiohttp
from yarl import URL

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.registry import body as bodies
from mesocosm.images.registry.faults import Transient
from mesocosm.images.registry.retry import Retry
from mesocosm.images.registry.transport import Transport
from mesocosm.images.registry.validators import if_same, is_etag, is_strong, unless_same, validator_of

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII)

Expect: TypeAlias = Callable[[aiohttp.ClientResponse, tuple[int, ...], str], Awaitable[None]]
"""Raises what a response's status means unless it is among those given; the text names the file."""


class Download:
    """A file on its way.  ``position`` counts the bytes that are here, ``total`` all of them, None while
    nobody told; ``resumed`` of them were here before, ``validator`` is what they came with.  ``unchanged``:
    the server answered that it still has what the caller knows.
    """

    def __init__(
        self,
        transport: Transport,
        url: URL,
        *,
        what: str,
        scope: str = "",
        expect: Expect | None = None,
        position: int = 0,
        size: int | None = None,
        most: int | None = None,
        validator: str | None = None,
        known: str | None = None,
        restart: Callable[[str | None], None] | None = None,
    ) -> None:
        """``what`` names the file; ``size`` is what it has to have, ``most`` what it may have, in bytes.

        ``restart`` is told that what comes is another version's beginning, and its validator; without it
        the file is known by its digest, which has no versions.  ``known`` is the validator of what the
        caller has in full.
        """
        self.position = self.resumed = position
        self.total = size
        self.validator = validator
        self.unchanged = False
        self._transport = transport
        self._url = url
        self._what = what
        self._scope = scope
        self._expect = expect or transport.expect
        self._size = size
        self._most = most
        self._known = known
        self._restart = restart
        self._ranges = True
        self._ended = size is not None and position >= size

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the file's bytes from `position` on, moving it.

        Ends where the file does; what a server sends beyond `size` is passed on, for a verifier to refuse.
        Raises NotFound, Denied, Corrupt (another size than `size`), Exhausted above `most`, Unavailable
        after retries.
        """
        retry = Retry(self._transport.limits)
        while not self._ended:
            try:
                async with contextlib.aclosing(self._attempt()) as chunks:
                    async for chunk in chunks:
                        retry.progressed(len(chunk))
                        yield chunk
            except Transient as error:
                await self._transport.pause(retry, error)

    async def _attempt(self) -> AsyncGenerator[bytes, None]:
        """One request; raises Transient when another may go on from there."""
        ranged = self._ranges and self.position > 0 and self._is_same(self.validator)
        async with self._transport.exchange(
            "GET", self._url, scope=self._scope, what=self._what, headers=self._headers(ranged)
        ) as response:
            if response.status == 304 and self._known is not None and not ranged:
                self.unchanged = self._ended = True
                return
            await self._expect(response, (200, 206, 416) if ranged else (200,), self._what)
            skip = self._place(response, ranged)
            self._require_allowed(self.total)
            async for chunk in bodies.chunks(response, self._transport.limits, self._what):
                await self._transport.take(len(chunk))
                fresh = chunk[skip:] if skip else chunk
                skip -= len(chunk) - len(fresh)
                if fresh:
                    self.position += len(fresh)
                    self._require_allowed(self.position)
                    yield fresh
        if skip or (self.total is not None and self.position < self.total):
            held = self.position - skip
            raise Transient(f"{self._what} ended after {held} of {self.total or self.position} bytes")
        self._ended = True

    def _headers(self, ranged: bool) -> dict[str, str]:
        if not ranged:
            return unless_same(self._known)
        # A digest decides by itself; servers behind one name need not agree on its validator.
        condition = {} if self._restart is None else if_same(self.validator)
        return {"Range": f"bytes={self.position}-", **condition}

    def _place(self, response: aiohttp.ClientResponse, ranged: bool) -> int:
        """Return how many of the body's first bytes are here already; Transient when it cannot be used."""
        told = validator_of(response.headers)
        if response.status == 200:
            self._begin(response, told)
            return self.position
        if ranged and response.status == 206 and self._agrees(told) and self._is_rest(response):
            self.validator = self.validator or told
            return 0
        self._ranges = False
        raise Transient(f"{self._what}: the registry answered a range request with another range")

    def _begin(self, response: aiohttp.ClientResponse, told: str | None) -> None:
        """Take a body that is the whole file; forget what is here unless that is of the same one."""
        length = None if "Content-Encoding" in response.headers else response.content_length
        if self._size is None:
            self.total = length
        elif length not in (None, self._size):
            there = f"{length} bytes at {self._transport.registry}"
            raise Corrupt(
                f"{self._what} has {there}, its manifest says {self._size}",
                hint="the image is damaged there; have it pushed again",
            )
        same = told == self.validator and self._is_same(told)
        self.validator = told
        if self._restart is not None and not same:
            self.position = self.resumed = 0
            self._restart(told)

    def _is_same(self, validator: str | None) -> bool:
        return self._restart is None or is_strong(validator)

    def _agrees(self, told: str | None) -> bool:
        """Whether a range is of the version that the other bytes are of.

        What is asked for by an ETag is answered with it (RFC 9110 section 15.3.7); who does not may not have
        read the question.
        """
        if told is None or self.validator is None:
            return self._restart is None or not is_etag(self.validator)
        return told == self.validator

    def _is_rest(self, response: aiohttp.ClientResponse) -> bool:
        """Whether the body is all that is missing."""
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or response.content_type.startswith("multipart/"):
            return False
        first, end = int(match[1]), int(match[2]) + 1
        whole = end if match[3] == "*" else int(match[3])
        agreed = first == self.position < end == whole and self.total in (None, whole)
        if not agreed or response.content_length not in (None, whole - first):
            return False
        self.total = whole
        return True

    def _require_allowed(self, size: int | None) -> None:
        if self._most is not None and (size or 0) > self._most:
            raise Exhausted(f"{self._what} is larger than the {self._most} bytes allowed")


async def told_size(transport: Transport, url: URL, *, what: str, scope: str) -> int | None:
    """Return the size in bytes of a file that a server has, by the header of its first byte; None when that
    does not tell.  Raises NotFound, Denied, Unavailable.
    """

    async def attempt() -> int | None:
        asked = {"Range": "bytes=0-0"}
        async with transport.exchange("GET", url, scope=scope, what=what, headers=asked) as response:
            await transport.expect(response, (200, 206, 416), what)
            if response.status == 416:  # an empty file has no first byte (RFC 9110 section 14.4)
                return 0 if response.headers.get("Content-Range") == "bytes */0" else None
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status == 206:
                return int(match[3]) if match is not None and match[3] != "*" else None
            return None if "Content-Encoding" in response.headers else response.content_length

    return await transport.retrying(attempt, Retry(transport.limits))
