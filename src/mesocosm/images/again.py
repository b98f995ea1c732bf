"""Asking a source for an image that is known, and for no other."""

from __future__ import annotations

from mesocosm.images.digest import Digest
from mesocosm.images.families import Families
from mesocosm.images.image import ImageRecord
from mesocosm.images.outlines import recognised
from mesocosm.images.platform import recorded
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Found, Outline


async def again(
    families: Families, reference: Reference, image: ImageRecord, report: Report = silent
) -> Found | None:
    """Return the image as its source has it; None when the reference means another one there.

    Registries are asked by digest.  Raises what the source does.
    """
    if reference.transport == "docker":
        reference = reference.pinned(Digest.parse(image.published))
    store, platform = families.store(reference), recorded(image.platform)
    found = await store.discover(reference, platform, report=report)
    if isinstance(found, Outline):
        found = await recognised(found, image)
    return found if found is not None and str(found.manifest.digest) == image.digest else None
