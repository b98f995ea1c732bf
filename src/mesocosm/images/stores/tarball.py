"""One tar file as an image of one layer: what ``tar -c /`` or ``docker export`` writes, compressed or not.

It lies on this host, or on a web server.  What comes from a server is kept among the blobs before it is
named, because only its bytes say what it is; the next time the server is asked by the ETag or date it gave.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mesocosm.errors import Corrupt
from mesocosm.images.archive import Span, chunks, digest_of
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.leases import hold
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.measuring import measure
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Found, Store, StoreContext, fetching
from mesocosm.images.stores.resolve import resolve_made
from mesocosm.images.synthesis import config_bytes, manifest_document
from mesocosm.images.transfer import in_thread
from mesocosm.images.unnamed import arriving

if TYPE_CHECKING:
    from mesocosm.images.web import Fetched, Web


class TarballStore(Store):
    """``tarball:PATH-or-URL[@DIGEST]``; the digest is the file's."""

    name = "tarball"
    transports = frozenset({"tarball"})

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._web: Web | None = None

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None, report: Report = silent
    ) -> Found | None:
        """As `Store.discover`.  The file is read once to name it, and once more for its layer."""
        if not reference.is_url:
            return await _image(Path(reference.path).absolute(), reference, platform)
        pin, blobs = reference.digest, self.context.blobs
        if pin is not None:
            await in_thread(hold, pin)
            if await in_thread(blobs.has, pin):
                return await _image(blobs.path(pin), reference, platform)
        with arriving(blobs, reference.path) as blob:
            came = await self._client().fetch(
                reference.path,
                blob,
                most=DEFAULT_LIMITS.stream,
                what=f"tarball {reference.path}",
                validator=etag,
                report=report,
            )
            if came is None:
                return None
            digest: Digest = await in_thread(blob.publish)
        return await _image(blobs.path(digest), reference, platform, came)

    async def close(self) -> None:
        """As `Store.close`."""
        if self._web is not None:
            await self._web.close()

    def _client(self) -> Web:
        from mesocosm.images.web import Web  # the HTTP library: only who fetches needs it

        self._web = self._web or Web(self.context.hosts, throttle=self.context.throttle)
        return self._web


async def _image(path: Path, reference: Reference, platform: Platform, came: Fetched | None = None) -> Found:
    """The image whose only layer is the tar file at ``path``."""
    layer, diff_id = await in_thread(measure, path)
    if reference.digest is not None:
        await in_thread(check_pin, path, reference)
    top, documents = manifest_document(config_bytes(platform, [diff_id], {}), [layer])

    async def opened(descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
        async for chunk in chunks(path, Span(0, descriptor.size), offset):
            yield chunk

    return await resolve_made(
        top,
        documents,
        msgspec.structs.replace(reference, digest=None),
        platform,
        fetch=fetching(opened, resume=False),
        source=reference.path if reference.is_url else str(path),
        etag=came.validator if came else None,
    )


def check_pin(path: Path, reference: Reference) -> None:
    """Raise Corrupt when the file is not the one that the reference is pinned to; blocking."""
    pin = reference.digest
    if pin is None:
        return
    found = digest_of(path, pin.algorithm)
    if found != pin:
        raise Corrupt(f"{reference.path} is {found}, not what the reference is pinned to")
