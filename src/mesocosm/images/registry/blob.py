"""Blobs of a registry: their bytes, whether they are there, how large they are (distribution spec, "Pulling
blobs").
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from yarl import URL

from mesocosm.errors import NotFound, Unsupported
from mesocosm.images.digest import Digest
from mesocosm.images.foreign import parse_uint
from mesocosm.images.registry.download import Download, told_size
from mesocosm.images.registry.transport import Reply, Transport


def stream(
    transport: Transport,
    repository: str,
    digest: Digest,
    size: int | None,
    offset: int,
    *,
    most: int | None = None,
) -> AsyncGenerator[bytes, None]:
    """Yield the blob's bytes from ``offset`` on, see `Download.chunks`; ``size`` None: nobody told.

    The digest is for whoever takes them to check.
    """
    return Download(
        transport,
        _url(transport, repository, digest),
        what=_what(repository, digest),
        scope=_scope(repository),
        position=offset,
        size=size,
        most=most,
    ).chunks()


async def is_there(transport: Transport, repository: str, digest: Digest) -> bool:
    """Whether a repository has a blob, by HEAD; by GET, of which the body is left, where that is refused."""
    try:
        await _head(transport, repository, digest)
    except NotFound:
        return False
    except Unsupported:
        try:
            await _told_size(transport, repository, digest)
        except NotFound:
            return False
    return True


async def size(transport: Transport, repository: str, digest: Digest) -> int | None:
    """Return a blob's size in bytes, by HEAD; by GET, of which the body is left, where that tells nothing.

    None where neither does.  Raises NotFound, Denied, Unavailable.
    """
    try:
        reply = await _head(transport, repository, digest)
    except (NotFound, Unsupported):  # some refuse HEAD for what they have
        told = None
    else:
        told = parse_uint(reply.headers.get("Content-Length", ""), 1 << 62)
    return told or await _told_size(transport, repository, digest)


async def _head(transport: Transport, repository: str, digest: Digest) -> Reply:
    url, what = _url(transport, repository, digest), _what(repository, digest)
    return await transport.call("HEAD", url, scope=_scope(repository), what=what)


async def _told_size(transport: Transport, repository: str, digest: Digest) -> int | None:
    url, what = _url(transport, repository, digest), _what(repository, digest)
    return await told_size(transport, url, what=what, scope=_scope(repository))


def _url(transport: Transport, repository: str, digest: Digest) -> URL:
    return transport.url(f"{repository}/blobs/{digest}")


def _scope(repository: str) -> str:
    return f"repository:{repository}:pull"


def _what(repository: str, digest: Digest) -> str:
    return f"blob {digest} of {repository}"
