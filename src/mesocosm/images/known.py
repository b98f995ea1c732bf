"""An image that is recorded here, as a source of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mesocosm.errors import Corrupt, NotFound
from mesocosm.images.config import match_layers, parse_config
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, Manifest, parse_document
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.stores.base import Document, Found, fetching
from mesocosm.images.strict import DOCUMENT_LIMIT


def found_here(store: ImageStore, image: ImageRecord) -> Found:
    """Return a recorded image as a store would find it; blocking.  What it fetches has to be in the blob
    store.

    Raises Corrupt, NotFound when the documents are not what they were.
    """
    digest, config_digest = image.documents
    what = f"image {digest}"
    data = store.blobs.read(digest, limit=DOCUMENT_LIMIT)
    manifest = parse_document(data, content_type=image.media_type, algorithm=digest.algorithm, what=what)
    if not isinstance(manifest, Manifest):
        raise Corrupt(f"{what} is recorded as an image, but is an index")
    config_data = store.blobs.read(config_digest, limit=DOCUMENT_LIMIT)
    config = parse_config(config_data, algorithm=config_digest.algorithm, what=what)
    match_layers(manifest, config, what)
    return Found(
        manifest=manifest,
        config=config,
        documents=(Document(manifest.descriptor, data), Document(manifest.config, config_data)),
        source=image.source,
        fetch=fetching(_gone),
        origin=None if image.origin is None else Digest.parse(image.origin),
    )


async def _gone(descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
    del offset
    raise NotFound(f"no blob {descriptor.digest} in the image store", hint="pull the image again")
    yield b""
