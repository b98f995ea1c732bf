"""Where an App Container image lies, by its name (appc spec, "App Container Image Discovery").

Simple discovery takes the name for an address.  Meta discovery asks the name's own pages, from the whole
name up to the host, for ``<meta name="ac-discovery" content="PREFIX TEMPLATE">``.  Both over https, but for
servers that this host's configuration names insecure (G-05).  Keys that a page offers
(``ac-discovery-pubkeys``) are only told of: whoever serves a false image serves a false key beside it.
"""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.images.foreign import shown
from mesocosm.images.registry.hosts import HostsConfig, endpoints_of
from mesocosm.images.web import Web

PAGE_LIMIT: Final = 128 << 10
TAG_LIMIT: Final = 64
IMAGE: Final = "aci"
SIGNATURE: Final = "aci.asc"

_SIMPLE: Final = "{name}-{version}-{os}-{arch}.{ext}"
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_META = re.compile(r"<meta\s([^<>]{1,4096})>", re.ASCII | re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""([a-z-]{1,40})\s{0,8}=\s{0,8}(?:"([^"]*)"|'([^']*)')""", re.ASCII | re.IGNORECASE)
_VARIABLE = re.compile(r"\{([a-z]{1,20})\}", re.ASCII)


class Template(msgspec.Struct, frozen=True):
    """What a page says: names below ``prefix`` lie where ``text`` says, or have their keys there."""

    prefix: str
    text: str

    def serves(self, name: str) -> bool:
        """Whether the image's name lies below the prefix."""
        return name == self.prefix or name.startswith(f"{self.prefix.rstrip('/')}/")


class Page(msgspec.Struct, frozen=True):
    """What one page says of images and of keys, in its order."""

    images: tuple[Template, ...]
    keys: tuple[Template, ...]


def parse_page(data: bytes) -> Page:
    """Return what a page says; tags beyond `TAG_LIMIT`, comments and all else are passed over."""
    found: dict[str, list[Template]] = {"ac-discovery": [], "ac-discovery-pubkeys": []}
    text = _COMMENT.sub("", data.decode("utf-8", "replace"))
    for number, tag in enumerate(_META.finditer(text)):
        if number >= TAG_LIMIT:
            break
        pairs = _ATTRIBUTE.findall(tag[1])
        attributes = {name.lower(): html.unescape(one or two) for name, one, two in pairs}
        words = attributes.get("content", "").split()
        if len(words) == 2 and attributes.get("name", "").lower() in found:
            found[attributes["name"].lower()].append(Template(*words))
    return Page(tuple(found["ac-discovery"]), tuple(found["ac-discovery-pubkeys"]))


def filled(template: str, values: Mapping[str, str]) -> str | None:
    """Return a template with its variables replaced; None when it asks for one that has no value."""
    if not set(_VARIABLE.findall(template)) <= set(values):
        return None
    return _VARIABLE.sub(lambda match: values[match[1]], template)


class Discovery:
    """Finds addresses for one client."""

    def __init__(self, web: Web, hosts: HostsConfig | None) -> None:
        self._web = web
        self._hosts = hosts or HostsConfig()

    def simple(self, name: str) -> str:
        """Return the template of simple discovery.  Raises InvalidConfig for a name without a host."""
        return f"{self._scheme(name)}://{_SIMPLE}"

    async def meta(self, name: str) -> tuple[str, ...]:
        """Return the templates of the first page that speaks of the name; none where no page does.

        Raises Denied and Unavailable as `Web.read` does.
        """
        return tuple(one.text for one in (await self._page(name, keys=False)))

    async def keys(self, name: str) -> tuple[str, ...]:
        """Return the addresses of the keys that the first page that speaks of the name offers."""
        return tuple(one.text for one in (await self._page(name, keys=True)))

    async def _page(self, name: str, *, keys: bool) -> tuple[Template, ...]:
        scheme = self._scheme(name)
        for prefix in _upwards(name):
            url = f"{scheme}://{prefix}?ac-discovery=1"
            with contextlib.suppress(NotFound):
                page = parse_page(await self._web.read(url, most=PAGE_LIMIT, what=f"discovery page {url}"))
                found = tuple(one for one in (page.keys if keys else page.images) if one.serves(name))
                if found:
                    return found
        return ()

    def _scheme(self, name: str) -> str:
        host = name.partition("/")[0]
        if "." not in host:
            raise InvalidConfig(
                f"image name {shown(name, 120)} begins with no host", hint="as in appc:example.com/app:1.0"
            )
        return endpoints_of(host, self._hosts)[-1].base.partition("://")[0]


def _upwards(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition("/")[0]
