"""Images of several platforms under one name: the index that lists those that are here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from mesocosm.errors import MesocosmError
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, Index, descriptor_json, index_document, parse_document
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.platform import parse_platform
from mesocosm.images.stores.base import Document
from mesocosm.images.strict import DOCUMENT_LIMIT

ALL: Final = "all"
"""The word for every platform: of an index that is pulled, or of what is here under a name."""


def index_of(store: ImageStore, images: Sequence[ImageRecord]) -> Document:
    """Return an index of these images; blocking.

    The one by which they came, byte for byte, when it lists just them; else a new one, in the order of
    platforms, without what the old one says of anything else (attestations).
    """
    held = {image.digest for image in images}
    tops = {ref.top for ref in store.catalogue.refs() if ref.digest in held and ref.top not in (None, *held)}
    for top in sorted(filter(None, tops)):
        document = _index_here(store, Digest.parse(top))
        if document is not None and {str(one.digest) for one in _listed(document)} == held:
            return document
    entries = [descriptor_json(_entry(one)) for one in sorted(images, key=lambda one: one.platform)]
    data = index_document(list(entries))
    return Document(Descriptor(mediatypes.OCI_INDEX, Digest.of(data), len(data)), data)


def _entry(image: ImageRecord) -> Descriptor:
    platform = parse_platform(image.platform)
    digest = Digest.parse(image.digest)
    return Descriptor(image.media_type, digest, image.manifest_size, platform=platform)


def _index_here(store: ImageStore, digest: Digest) -> Document | None:
    try:
        data = store.blobs.read(digest, limit=DOCUMENT_LIMIT)
        found = parse_document(data, algorithm=digest.algorithm)
    except MesocosmError:
        return None
    return Document(found.descriptor, data) if isinstance(found, Index) else None


def _listed(document: Document) -> tuple[Descriptor, ...]:
    found = parse_document(document.data, content_type=document.descriptor.media_type)
    return found.manifests if isinstance(found, Index) else ()


class Listed(msgspec.Struct, frozen=True):
    """Images that go out together: one, or one for each platform with the ``index`` that lists them."""

    images: tuple[ImageRecord, ...]
    index: Document | None = None

    @property
    def top(self) -> Descriptor:
        """The document that a name for them stands for."""
        if self.index is not None:
            return self.index.descriptor
        (image,) = self.images
        return Descriptor(image.media_type, Digest.parse(image.digest), image.manifest_size)


def together(store: ImageStore, images: Sequence[ImageRecord]) -> Listed:
    """Return the images with their index; one image needs none; blocking."""
    return Listed(tuple(images), index_of(store, images) if len(images) > 1 else None)
