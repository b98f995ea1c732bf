"""Where a request goes: origins, and which addresses a server may send us to.

A registry can answer with URLs of its own choosing: redirects, token realms, upload locations, next pages.
None of them may make us talk to a metadata service, to this host or with less protection than before
(attacks G-03, G-04, G-05).
"""

from __future__ import annotations

import enum
import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from mesocosm.errors import Denied
from mesocosm.images.foreign import shown

_STRAY = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)
"""A per cent sign that escapes nothing."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Origin(NamedTuple):
    """Scheme, host and port: what credentials are bound to (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: URL) -> Origin:
        """Return the origin of an absolute URL."""
        return cls(url.scheme, (url.host or "").lower(), url.port or 0)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Reach(enum.IntEnum):
    """How far inside an address lies.  A server can send us only as far inside as it is itself."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    FORBIDDEN = 3


def reach_of(address: Address) -> Reach:
    """Return how far inside ``address`` lies; link-local, multicast and unspecified ones are never fetched
    from.
    """
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
    if inner.is_loopback:
        return Reach.LOOPBACK
    if inner.is_link_local or inner.is_multicast or inner.is_unspecified:
        return Reach.FORBIDDEN
    # fd00:ec2::254 is the cloud metadata service inside the unique-local range.
    if inner == ipaddress.ip_address("fd00:ec2::254"):
        return Reach.FORBIDDEN
    return Reach.PRIVATE if inner.is_private or inner.is_reserved else Reach.PUBLIC


def literal(host: str) -> Address | None:
    """Return the address that ``host`` writes, None when it is a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether ``host`` is a loopback literal or ``localhost``, without asking a name server."""
    address = literal(host)
    return host.lower() == "localhost" if address is None else reach_of(address) is Reach.LOOPBACK


def next_url(current: URL, location: str | None, what: str) -> URL:
    """Return where ``location`` leads from ``current``; Denied for what no registry may ask.

    Only http and https, no user part, no control characters, never from https to http.
    """
    text = location or ""
    if not text or len(text) > 8192 or not text.isprintable():
        raise Denied(f"{what} leads to {shown(text, 80)!r}, which is not a URL")
    try:
        # As it was written: what is signed, or opaque to us, must come back byte for byte.
        given = URL(text, encoded=_is_encoded(text))
        target = current.join(given).with_fragment(None)
        port = target.port if given.host or not given.scheme else None
    except ValueError:
        raise Denied(f"{what} leads to {shown(text, 80)!r}, which is not a URL") from None
    if target.scheme not in ("http", "https") or not target.host or not port:
        raise Denied(f"{what} leads to {shown(text, 80)!r}: only http and https are followed")
    if target.user is not None or target.password is not None:
        raise Denied(f"{what} leads to a URL with a user name in it, which is not followed")
    if current.scheme == "https" and target.scheme != "https":
        raise Denied(
            f"{what} leads from https to {shown(target, 80)!r}", hint="the registry must stay on https"
        )
    return target


def _is_encoded(text: str) -> bool:
    """Whether a URL can be sent as it is (RFC 3986); what cannot is escaped."""
    return text.isascii() and not set(text) & set(' "<>\\^`{|}') and not _STRAY.search(text)


class Guard(AbstractResolver):
    """Resolves names for one endpoint, and lets connections go no further inside than the endpoint itself
    lies.

    The addresses returned are the ones connected to, so a name cannot change between check and use.
    ``deny_private`` also forbids private ranges to everything but the endpoint.  ``trusted`` are hosts that
    this host's configuration names itself, the proxies; they may lie anywhere.
    """

    def __init__(
        self, own_host: str, *, deny_private: bool = False, trusted: frozenset[str] = frozenset()
    ) -> None:
        self._own = own_host.lower()
        self._trusted = trusted
        own = literal(self._own)
        self._most = Reach.PUBLIC if deny_private else Reach.PRIVATE
        if own is not None:
            self._admit_own([reach_of(own)])
        self._names = ThreadedResolver()

    def check_literal(self, host: str) -> None:
        """Raise Denied when ``host`` is an address that may not be connected to; names are checked on
        resolving.
        """
        address = literal(host)
        if address is None:
            return
        reach = reach_of(address)
        if reach is Reach.FORBIDDEN or (reach > self._most and host.lower() != self._own):
            raise _forbidden(host)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of ``host`` that may be connected to; Denied when there are only others."""
        found = await self._names.resolve(host, port, family)
        if host.lower() in self._trusted:
            return found
        reaches = [reach_of(ipaddress.ip_address(one["host"].partition("%")[0])) for one in found]
        most = self._most
        if host.lower() == self._own:
            self._admit_own(reaches)
            most = Reach.LOOPBACK
        allowed = [one for one, reach in zip(found, reaches, strict=True) if reach <= most]
        if not allowed:
            raise _forbidden(host)
        return allowed

    async def close(self) -> None:
        """Release the name service."""
        await self._names.close()

    def _admit_own(self, reaches: Iterable[Reach]) -> None:
        if Reach.LOOPBACK in reaches:
            self._most = Reach.LOOPBACK


def _forbidden(host: str) -> Denied:
    return Denied(
        f"the registry leads to {shown(host, 80)}, an address that is not fetched from",
        hint="link-local addresses never are, loopback only for a registry that is there itself",
    )
