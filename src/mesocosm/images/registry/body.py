"""Reading a response's body under limits: silence, slowness and length (attacks G-06)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp

from mesocosm.errors import Exhausted
from mesocosm.images.foreign import shown
from mesocosm.images.registry.faults import Transient
from mesocosm.images.registry.limits import Limits


class Pace:
    """Judges a body's speed by the time spent waiting for it, so that a slow reader is not taken for a slow
    server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waited = 0.0
        self._bytes = 0

    def took(self, waited: float, count: int) -> bool:
        """Note ``count`` bytes that took ``waited`` seconds; False when the last window was below the
        minimum rate.
        """
        self._waited += waited
        self._bytes += count
        if self._waited < self._limits.idle:
            return True
        fast_enough = self._bytes >= self._limits.min_rate * self._waited
        self._waited, self._bytes = 0.0, 0
        return fast_enough


async def chunks(response: aiohttp.ClientResponse, limits: Limits, what: str) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, in pieces as large as have arrived; raises Transient when it stalls or
    breaks.
    """
    pace = Pace(limits)
    while True:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(limits.idle):
                chunk = await response.content.readany()
        except TimeoutError:
            raise Transient(f"{what}: nothing came for {limits.idle:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"{what}: the connection broke off: {shown(error, 120)}") from None
        if not chunk:
            return
        if not pace.took(time.monotonic() - begun, len(chunk)):
            raise Transient(
                f"{what}: less than {limits.min_rate} bytes per second came for {limits.idle:g} s"
            )
        yield chunk


async def read(response: aiohttp.ClientResponse, limits: Limits, what: str, most: int) -> bytes:
    """Return the whole body; Exhausted when it is longer than ``most`` bytes."""
    body = bytearray()
    if (response.content_length or 0) > most:
        raise Exhausted(f"{what} has {response.content_length} bytes, more than the {most} allowed")
    async for chunk in chunks(response, limits, what):
        body += chunk
        if len(body) > most:
            raise Exhausted(f"{what} has more than the {most} bytes allowed")
    return bytes(body)
