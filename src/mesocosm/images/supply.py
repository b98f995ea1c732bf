"""The blobs of an image, brought back where they are not kept.

Layers are kept by diff ID, so an image may be complete while the compressed bytes its manifest names were
never fetched: another image brought the same layer, compressed otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesocosm.errors import Denied, MesocosmError, NotFound, Unavailable
from mesocosm.images.again import again
from mesocosm.images.digest import Digest
from mesocosm.images.families import Families
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference, parse_reference
from mesocosm.images.stores.base import Found
from mesocosm.images.transfer import Discard, in_thread


async def have_blobs(store: ImageStore, families: Families, image: ImageRecord, report: Report) -> None:
    """Have every blob of the image in the store, asking its sources for those that are not.

    Raises NotFound when no source has them any more.
    """
    if all(store.blobs.has(Digest.parse(one.digest), one.size) for one in image.layers):
        return
    await keep_blobs(store, await found_again(store, families, image, report), report)


async def have_documents(store: ImageStore, families: Families, image: ImageRecord) -> None:
    """Have the image's manifest and configuration in the store, and what they were made of, asking its
    sources where they are not.

    Raises NotFound when no source has them any more.
    """
    if all(map(store.blobs.has, image.kept)):
        return
    found = await found_again(store, families, image, silent)
    for document in found.documents:
        await in_thread(store.blobs.put, document.data, document.descriptor.digest)


async def found_again(store: ImageStore, families: Families, image: ImageRecord, report: Report) -> Found:
    """Return the image as the first of its sources has it that still does.

    Raises NotFound where none has, Unavailable or Denied where one of them might have.
    """
    silent_one: MesocosmError | None = None
    for reference in await in_thread(lambda: list(_sources(store, image))):
        try:
            found = await again(families, reference, image, report)
        except (Unavailable, Denied) as error:
            silent_one = error
        except MesocosmError:
            continue
        else:
            if found is not None:
                return found
    if silent_one is not None:
        raise silent_one
    raise NotFound(
        f"some of image {image.digest} is not kept on this host, and no source has it",
        hint="pull or load the image again",
    )


async def keep_blobs(store: ImageStore, found: Found, report: Report) -> None:
    """Have every layer's blob in the store, from where the image was found."""
    for descriptor in {one.digest: one for one in found.manifest.layers}.values():
        if not store.blobs.has(descriptor.digest, descriptor.size):
            await found.fetch(store.blobs, descriptor, sink=Discard, report=report, keep=True)


def _sources(store: ImageStore, image: ImageRecord) -> Iterator[Reference]:
    """The names under which the image was pulled."""
    for ref in store.catalogue.refs():
        if ref.digest == image.digest and ref.top is not None:
            yield parse_reference(ref.reference)
