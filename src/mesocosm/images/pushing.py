"""Pushing an image to a registry: what it has already is not sent again, and the manifest goes last."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.images.archive import Span, chunks
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.families import Families
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.known import found_here
from mesocosm.images.progress import Report
from mesocosm.images.reference import Reference
from mesocosm.images.registry.push import UploadSource
from mesocosm.images.stores.docker import RegistryStore
from mesocosm.images.transfer import in_thread


async def push(
    store: ImageStore, families: Families, image: ImageRecord, target: Reference, report: Report
) -> Digest:
    """Have the image in the registry under ``target``, and return its digest there.

    Raises InvalidConfig for a target that is no registry name, NotFound when blobs are not kept here.
    """
    registry = families.store(target)
    if not isinstance(registry, RegistryStore) or target.tag is None:
        raise InvalidConfig(f"{target} is not a name in a registry", hint="names are written HOST/NAME:TAG")
    found = await in_thread(found_here, store, image)
    client = await registry.client(target)

    wanted = {one.digest: one for one in (*found.manifest.layers, found.manifest.config)}
    for descriptor in wanted.values():
        if not store.blobs.has(descriptor.digest, descriptor.size):
            raise NotFound(f"blob {descriptor.digest} is not kept on this host", hint="pull the image again")
        await client.push_blob(target.repository, descriptor, _source(store, descriptor), report=report)
    manifest = next(one for one in found.documents if one.descriptor.digest == found.manifest.digest)
    return await client.push_manifest(target.repository, target.tag, manifest.data, found.manifest.media_type)


def _source(store: ImageStore, descriptor: Descriptor) -> UploadSource:
    async def read(offset: int, count: int) -> AsyncIterator[bytes]:
        async for chunk in chunks(store.blobs.path(descriptor.digest), Span(offset, count)):
            yield chunk

    return read
