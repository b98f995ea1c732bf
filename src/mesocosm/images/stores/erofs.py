"""A ready-made EROFS file as an image of one layer.  Policy has to allow it: the kernel parses it (I-21)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from mesocosm.errors import Corrupt
from mesocosm.images import mediatypes
from mesocosm.images.archive import CHUNK, Span, chunks, open_regular
from mesocosm.images.digest import Digest, new_hash
from mesocosm.images.documents import Descriptor
from mesocosm.images.erofs.file import HEAD
from mesocosm.images.erofs.ready import check_superblock
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Found, Store, fetching
from mesocosm.images.stores.resolve import resolve_made
from mesocosm.images.synthesis import config_bytes, manifest_document
from mesocosm.images.transfer import in_thread

_DEFAULT: Final = "sha256"


class ErofsStore(Store):
    """``erofs:PATH[@DIGEST]``; the digest is the file's, and the layer's diff ID too."""

    name = "erofs"
    transports = frozenset({"erofs"})

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None, report: Report = silent
    ) -> Found | None:
        """As `Store.discover`.  The file is read once to name it, and once more for its layer."""
        path = Path(reference.path).absolute()
        layer = await in_thread(describe, path, reference.digest)
        top, documents = manifest_document(config_bytes(platform, [layer.digest], {}), [layer])

        async def opened(descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
            async for chunk in chunks(path, Span(0, descriptor.size), offset):
                yield chunk

        unpinned = msgspec.structs.replace(reference, digest=None)
        fetch = fetching(opened, resume=False)
        return await resolve_made(top, documents, unpinned, platform, fetch=fetch, source=str(path))


def describe(path: Path, pin: Digest | None) -> Descriptor:
    """Return the file as a layer; blocking.  Corrupt when it is no EROFS image, or not ``pin``."""
    running = new_hash(pin.algorithm if pin else _DEFAULT)
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        check_superblock(os.pread(fd, HEAD, 0), size, str(path))
        while piece := os.read(fd, CHUNK):
            running.update(piece)
    finally:
        os.close(fd)
    found = Digest(pin.algorithm if pin else _DEFAULT, running.hexdigest())
    if pin not in (None, found):
        raise Corrupt(f"{path} is {found}, not what the reference is pinned to")
    return Descriptor(mediatypes.EROFS_LAYER, found, size)
