"""Lists that a registry hands out in pages: tags and referrers (distribution spec, "Listing Tags", "Listing
Referrers").

Every page, their number and what they hold are bounded, and a page may only name a next one on the same
origin (attacks G-06).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable

from yarl import URL

from mesocosm.errors import Corrupt, Denied, Exhausted, NotFound, Unsupported
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, Index, parse_document
from mesocosm.images.foreign import shown
from mesocosm.images.reference import is_tag
from mesocosm.images.registry.transport import Reply, Transport
from mesocosm.images.strict import Fields, load

_PARAM = r"""[ \t]*;[ \t]*([\w!#$%&'*+.^`|~-]+)[ \t]*(?:=[ \t]*(?:"([^"]*)"|([^\s;,"]*)))?"""
_LINK = re.compile(rf"<([^<>\s]{{1,4096}})>((?:{_PARAM})*)", re.ASCII)
_EACH_PARAM = re.compile(_PARAM, re.ASCII)
PAGE = 1000


async def tags(transport: Transport, repository: str) -> list[str]:
    """Return a repository's tags; Corrupt for a name that is none, Exhausted beyond the limits."""
    found: list[str] = []
    what = f"tag list of {repository}"
    async for reply in _pages(transport, transport.url(f"{repository}/tags/list?n={PAGE}"), repository, what):
        whose = f"registry {transport.registry}: {what}"
        names = Fields(load(reply.body, whose), whose, ("name", "tags")).texts("tags")
        for name in names:
            if not is_tag(name):
                raise Corrupt(f"{what} holds {shown(name, 80)!r}, which is not a tag")
        found += names
        if len(found) > transport.limits.tags:
            raise Exhausted(f"{what} has more than the {transport.limits.tags} tags allowed")
    return found


async def referrers(
    transport: Transport, repository: str, digest: Digest, artifact_type: str | None
) -> tuple[Descriptor, ...] | None:
    """Return the descriptors of manifests that refer to ``digest``; None when the registry lacks this API."""
    what = f"referrers of {repository}@{digest}"
    url = transport.url(f"{repository}/referrers/{digest}")
    if artifact_type is not None:
        url = url.update_query({"artifactType": artifact_type})
    found: list[Descriptor] = []
    try:
        async for reply in _pages(transport, url, repository, what):
            found += from_index(reply.body, artifact_type)
            if len(found) > transport.limits.tags:
                raise Exhausted(f"{what} are more than the {transport.limits.tags} allowed")
    except (NotFound, Unsupported):
        return None
    return tuple(found)


def from_index(data: bytes, artifact_type: str | None) -> tuple[Descriptor, ...]:
    """Return an index's descriptors of that artifact type: servers need not filter."""
    index = parse_document(data, content_type=mediatypes.OCI_INDEX, what="referrers index")
    if not isinstance(index, Index):
        raise Corrupt("the referrers index is not an index")
    return tuple(one for one in index.manifests if artifact_type in (None, one.artifact_type))


def tag_of_referrers(digest: Digest) -> str:
    """Return the tag of the index that stands for the list where the API lacks: of the digest's hex part its
    first 64 digits ("Referrers Tag Schema").
    """
    return f"{digest.algorithm}-{digest.hex[:64]}"


def next_page(headers: Iterable[str]) -> str | None:
    """Return where a list goes on by its ``Link`` headers (RFC 8288 section 3); None where it ends."""
    for link in (link for header in headers for link in _LINK.finditer(header)):
        for name, quoted, plain in _EACH_PARAM.findall(link[2]):
            if name.lower() == "rel" and "next" in (quoted or plain).lower().split():
                return str(link[1])
    return None


async def _pages(transport: Transport, url: URL, repository: str, what: str) -> AsyncIterator[Reply]:
    scope = f"repository:{repository}:pull"
    seen: set[str] = set()
    while True:
        seen.add(str(url))
        reply = await transport.call("GET", url, scope=scope, what=what)
        yield reply
        location = next_page(reply.headers.getall("Link", ()))
        if location is None:
            return
        url = transport.follow(reply.url, location, f"the {what}")
        if not transport.is_own(url):
            raise Denied(f"the {what} goes on at another server, {shown(url, 80)}")
        url = transport.for_mirror(url)
        if str(url) in seen or len(seen) >= transport.limits.pages:
            raise Exhausted(f"the {what} has no end after {len(seen)} pages")
