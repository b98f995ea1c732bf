"""One tar file as an image of one layer: what ``tar -c /`` or ``docker export`` writes, compressed or not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from mesocosm.errors import Corrupt, Unsupported
from mesocosm.images.archive import Span, chunks, open_regular
from mesocosm.images.decompress import Decompressor
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.platform import Platform
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Document, Found, Store, fetching
from mesocosm.images.stores.resolve import resolve
from mesocosm.images.synthesis import config_bytes, layer_descriptor, manifest_document
from mesocosm.images.transfer import in_thread

_PIECE: Final = 1 << 20


class TarballStore(Store):
    """``tarball:PATH[@DIGEST]``; the digest is the file's."""

    name = "tarball"
    transports = frozenset({"tarball"})

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None
    ) -> Found | None:
        """As `Store.discover`.  The file is read once to name it, and once more for its layer."""
        if reference.is_url:
            raise Unsupported(f"{reference} is not fetched", hint="download it, and give the file's path")
        path = Path(reference.path).absolute()
        layer, diff_id = await in_thread(measure, path)
        if reference.digest is not None and layer.digest != reference.digest:
            raise Corrupt(f"{path} is {layer.digest}, not what the reference is pinned to")
        top, documents = manifest_document(config_bytes(platform, [diff_id], {}), [layer])

        async def read(descriptor: Descriptor) -> bytes:
            return documents[descriptor.digest]

        async def opened(descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
            async for chunk in chunks(path, Span(0, descriptor.size), offset):
                yield chunk

        unpinned = msgspec.structs.replace(reference, digest=None)
        document = Document(top, documents[top.digest])
        return await resolve(document, read, unpinned, platform, fetch=fetching(opened), source=str(path))


def measure(path: Path) -> tuple[Descriptor, Digest]:
    """Return a file's descriptor as a layer, and its diff ID; blocking."""
    plain, blob, tar = Decompressor(None, DEFAULT_LIMITS), hashlib.sha256(), hashlib.sha256()
    fd = open_regular(path)
    try:
        while piece := os.read(fd, _PIECE):
            blob.update(piece)
            for part in plain.feed(piece):
                tar.update(part)
    finally:
        os.close(fd)
    for part in plain.finish():
        tar.update(part)
    layer = layer_descriptor(plain.compression or "none", Digest("sha256", blob.hexdigest()), plain.taken)
    return layer, Digest("sha256", tar.hexdigest())
