"""Images of several platforms under one name: the index that lists those that are here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from mesocosm.errors import MesocosmError
from mesocosm.images import mediatypes
from mesocosm.images.attachments import Attached, Kind
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, Index, descriptor_json, index_document, parse_document
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.platform import recorded
from mesocosm.images.stores.base import Document
from mesocosm.images.strict import DOCUMENT_LIMIT

ALL: Final = "all"
"""The word for every platform: of an index that is pulled, or of what is here under a name."""


def _kept(store: ImageStore, tops: Collection[str], listed: set[str]) -> Document | None:
    """The index by which images came, byte for byte, where it lists just what goes out; blocking."""
    for top in sorted(tops):
        document = _index_here(store, Digest.parse(top))
        if document is not None and {str(one.digest) for one in _listed(document)} == listed:
            return document
    return None


def _made(images: Sequence[ImageRecord], attestations: Sequence[Attached]) -> Document:
    """A new index, in the order of platforms."""
    entries = [_entry(one) for one in sorted(images, key=lambda one: one.platform)]
    entries += [one.descriptor for one in attestations]
    data = index_document([descriptor_json(one) for one in entries])
    return Document(Descriptor(mediatypes.OCI_INDEX, Digest.of(data), len(data)), data)


def _entry(image: ImageRecord) -> Descriptor:
    platform = recorded(image.platform)
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
    """Images that go out together: one, or one for each platform with the ``index`` that lists them.

    ``attestations`` are those that the index lists too, ``attached`` what goes along otherwise.
    """

    images: tuple[ImageRecord, ...]
    index: Document | None = None
    attestations: tuple[Attached, ...] = ()
    attached: tuple[Attached, ...] = ()

    @property
    def subjects(self) -> tuple[Digest, ...]:
        """What something may be attached to."""
        images = tuple(Digest.parse(image.digest) for image in self.images)
        return images if self.index is None else (*images, self.index.descriptor.digest)

    def with_attached(self, store: ImageStore) -> Listed:
        """Return the same with all that the store has for it; blocking."""
        found = [one for subject in self.subjects for one in store.attachments.of(subject)]
        attached = tuple(one for one in found if one.kind is not Kind.ENTRY)
        return msgspec.structs.replace(self, attached=attached)

    @property
    def top(self) -> Descriptor:
        """The document that a name for them stands for."""
        if self.index is not None:
            return self.index.descriptor
        (image,) = self.images
        return Descriptor(image.media_type, Digest.parse(image.digest), image.manifest_size)


def together(store: ImageStore, images: Sequence[ImageRecord], tops: Collection[str], whole: bool) -> Listed:
    """Return the images with their index; blocking.

    ``whole``: all that is here under a name, with the attestations, and the index among ``tops`` that lists
    just that, be it one image.  Without such a one several images have a new index, without what the old one
    says of anything else (other systems), and one image has none.
    """
    if not whole:
        return Listed(tuple(images))
    found = [one for image in images for one in store.attachments.of(Digest.parse(image.digest))]
    attestations = tuple(one for one in found if one.kind is Kind.ENTRY)
    listed = {image.digest for image in images} | {str(one.descriptor.digest) for one in attestations}
    index = _kept(store, tops, listed)
    if index is None and len(listed) > 1:
        index = _made(images, attestations)
    return Listed(tuple(images), index, attestations)
