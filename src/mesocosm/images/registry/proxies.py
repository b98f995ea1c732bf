"""Which proxy a URL is asked for through: only as this host's configuration says, never the environment.

A pattern of what is reached directly is ``*``, a host name (its subdomains too, with or without a leading
dot), an address, a range (``10.0.0.0/8``), or a host or an address with its port (``host:8080``).
"""

from __future__ import annotations

import ipaddress
from typing import Final

import msgspec
from yarl import URL

from mesocosm.errors import InvalidConfig
from mesocosm.images.foreign import shown
from mesocosm.images.registry.origin import literal

LOOPBACK: Final = ("localhost", "127.0.0.0/8", "::1")


class Proxies(msgspec.Struct, frozen=True):
    """Proxy URLs by the scheme of what is asked for, and patterns of what needs none.

    A proxy's URL may hold a password: it is never shown.
    """

    urls: dict[str, str] = {}
    direct: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Proxies({sorted(self.hosts)})"

    def of(self, url: URL) -> str | None:
        """Return the proxy for a URL; None for going there directly.  InvalidConfig for a bad pattern."""
        proxy = self.urls.get(url.scheme)
        if proxy is None or any(_matches(pattern, url) for pattern in self.direct):
            return None
        return proxy

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that proxies are on."""
        return frozenset((URL(one).host or "").lower() for one in self.urls.values())


def parse_proxy(text: str, where: str) -> str:
    """Return a configured proxy URL, ``http://[USER:PASSWORD@]HOST[:PORT]``; raises InvalidConfig.

    Proxies reached by TLS are refused: they would be shown the registry's client certificates.
    """
    try:
        url = URL(text)
        whole = url.scheme == "http" and url.host and url.port and not url.query_string and not url.fragment
        valid = bool(whole) and url.path in ("", "/") and text.isprintable() and " " not in text
    except ValueError:
        valid = False
    if not valid:
        raise InvalidConfig(
            f"{where} is not the address of a proxy", hint="expected http://[USER:PASSWORD@]HOST[:PORT]"
        )
    return text.rstrip("/")


def _matches(pattern: str, url: URL) -> bool:
    host, text = (url.host or "").lower(), pattern.lower()
    address = literal(host)
    if "/" in text:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise InvalidConfig(f"no_proxy: {shown(pattern, 60)!r} is not a range") from None
        return address is not None and address in network
    if (given := literal(text.strip("[]"))) is not None:
        return address == given
    name, colon, port = text.rpartition(":")
    if colon:
        return port == str(url.port) and _matches(name, url)
    name = text.lstrip(".")
    return text == "*" or (bool(name) and (host == name or host.endswith(f".{name}")))
