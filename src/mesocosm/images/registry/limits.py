"""The bounds that keep a slow, broken or hostile registry from holding us (attacks G-06, G-08)."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """All bounds of one client.  Times in seconds, sizes in bytes.

    connect      until a connection, TLS included, stands
    header       from the request sent to the response's header
    idle         silence inside a body
    min_rate     bytes per second a body must average over each ``idle`` seconds of waiting for it
    redirects    followed for one request
    attempts     consecutive failed tries, the first included, before giving up
    backoff      the first wait between tries; doubles up to ``backoff_cap``, then halved at random (jitter)
    retry_after  the most that a ``Retry-After`` can make us wait
    deadline     from the first failure to giving up, whatever the server promises, without progress between
    document     the largest manifest or index
    reply        the largest other JSON reply or error body that is read
    tags, pages  the most tags, and pages of any list
    """

    connect: float = 10.0
    header: float = 10.0
    idle: float = 30.0
    min_rate: int = 1024
    redirects: int = 5
    attempts: int = 6
    backoff: float = 0.25
    backoff_cap: float = 10.0
    retry_after: float = 60.0
    deadline: float = 300.0
    document: int = 4 << 20
    reply: int = 4 << 20
    tags: int = 100_000
    pages: int = 1_000
