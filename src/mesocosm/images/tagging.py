"""Giving an image one more name."""

from __future__ import annotations

from mesocosm.images.image import ImageRecord, RefRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.naming import Named, missing
from mesocosm.images.reference import Reference


def tag(store: ImageStore, named: Named, name: Reference) -> ImageRecord:
    """Let ``name`` mean the image, on the platform that it is for; blocking.

    NotFound when a collector took it meanwhile.
    """
    image = named.require_image()
    with store.leases.pulling() as lease:
        lease.need(image.documents, image.stored)
        if store.catalogue.image(image.digest) is None:
            raise missing(named.reference, image.digest)
        record = RefRecord(
            reference=str(name), digest=image.digest, platform=named.platform_key, index=_index(named, image)
        )
        store.catalogue.name(record)
    return image


def _index(named: Named, image: ImageRecord) -> str | None:
    """The index by which the image came, or was named before."""
    top = (named.ref.top or named.ref.index) if named.ref is not None else None
    return top if top not in (image.digest, image.origin) else None
