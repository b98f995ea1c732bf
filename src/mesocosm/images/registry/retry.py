"""When to try again: capped exponential back-off with jitter, ``Retry-After`` within reason, one deadline
for all.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from typing import Final

from mesocosm.images.foreign import parse_uint
from mesocosm.images.registry.limits import Limits

PROGRESS: Final = 1 << 20
"""Bytes after which earlier failures are forgotten: one byte for each connection is no progress."""

STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that say "later"; 501 and 505 say "never"."""


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for (RFC 9110 section 10.2.3); None when it says
    nothing.

    Never negative.  ``now`` in seconds since the epoch.  Absurd values come back as they are: the caller
    caps.
    """
    if value is None or len(value) > 64:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = parse_uint(text, 10**18)
        return float("inf") if seconds is None else float(seconds)
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, moment - now)


class Retry:
    """Counts one operation's failures and says how long to wait after each.

    ``delay`` returns seconds, or None when attempts or deadline are used up.  ``progressed`` tells of bytes
    received: after :data:`PROGRESS` of them the count begins anew.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._wall = wall
        self._chance = chance
        self._failures = 0
        self._received = 0
        self._first: float | None = None

    def progressed(self, count: int) -> None:
        """Note ``count`` more bytes received."""
        self._received += count
        if self._received >= PROGRESS:
            self._received = 0
            self._failures = 0
            self._first = None

    def delay(self, retry_after: str | None = None) -> float | None:
        """Note a failure; return how long to wait before the next try, None to give up."""
        now = self._clock()
        if self._first is None:
            self._first = now
        self._failures += 1
        if self._failures >= self._limits.attempts:
            return None
        wait = self._wait(retry_after)
        return wait if now + wait < self._first + self._limits.deadline else None

    def _wait(self, retry_after: str | None) -> float:
        doubled: float = self._limits.backoff * 2.0 ** (self._failures - 1)
        ceiling = min(self._limits.backoff_cap, doubled)
        wait = ceiling * (0.5 + 0.5 * self._chance())
        asked = parse_retry_after(retry_after, self._wall())
        return wait if asked is None else max(wait, min(asked, self._limits.retry_after))
