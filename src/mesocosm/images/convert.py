"""The same image with its layers compressed otherwise: other blobs, another manifest, the same diff IDs.

Nothing is unpacked anew: layers are kept by diff ID, and those stay.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator

import msgspec

from mesocosm.errors import Corrupt
from mesocosm.images import mediatypes
from mesocosm.images.archive import Span, chunks
from mesocosm.images.compress import Written, compressor
from mesocosm.images.decompress import Decompressor
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, descriptor_json
from mesocosm.images.erofs.ready import require_archives
from mesocosm.images.image import ImageRecord, RefRecord, record_of
from mesocosm.images.image_store import ImageStore
from mesocosm.images.known import found_here
from mesocosm.images.leases import Pulling
from mesocosm.images.progress import Phase, Progress, Report
from mesocosm.images.reference import Reference
from mesocosm.images.spool import Spool, spooling
from mesocosm.images.stores.base import Found
from mesocosm.images.synthesis import layer_descriptor
from mesocosm.images.transfer import fetch, in_thread


async def convert(
    store: ImageStore,
    image: ImageRecord,
    kind: Written,
    report: Report,
    name: Reference | None = None,
    platform: str = "",
) -> ImageRecord:
    """Record the image with all layers compressed by ``kind``, in OCI's types; return its record.

    Its blobs have to be there.  Layers that are so already stay as they are; so does the image when all are.
    With a ``name`` that means it from then on, on ``platform``.  Raises Corrupt when a stored blob is not
    what it was.
    """
    require_archives(image)
    with store.leases.pulling() as lease:
        await in_thread(lease.need, image.documents, image.diff_ids)
        made = await _converted(store, image, kind, lease, report)
        if name is not None:
            ref = RefRecord(reference=str(name), digest=made.digest, platform=platform)
            await in_thread(store.catalogue.name, ref)
        return made


async def _converted(
    store: ImageStore, image: ImageRecord, kind: Written, lease: Pulling, report: Report
) -> ImageRecord:
    found: Found = await in_thread(found_here, store, image)
    if found.manifest.media_type == mediatypes.OCI_MANIFEST and all(
        _is_so(layer, kind) for layer in found.manifest.layers
    ):
        return image
    made: dict[Digest, Descriptor] = {}
    for layer, diff_id in zip(found.manifest.layers, found.config.diff_ids, strict=True):
        if diff_id not in made:
            made[diff_id] = await _layer(store, layer, diff_id, kind, lease, report)
    layers = [made[one] for one in found.config.diff_ids]
    return await in_thread(_record, store, image, found, layers, lease)


def _is_so(layer: Descriptor, kind: Written) -> bool:
    return layer.compression == kind.replace("none", "")


async def _layer(
    store: ImageStore, layer: Descriptor, diff_id: Digest, kind: Written, lease: Pulling, report: Report
) -> Descriptor:
    subject, size = str(layer.digest), layer.size
    if _is_so(layer, kind):
        report(Progress(Phase.COMPRESS, subject, size, size, already=True, finished=True))
        return layer_descriptor(kind, layer.digest, layer.size)
    report(Progress(Phase.COMPRESS, subject, 0, size))
    context = spooling(store.blobs)
    try:
        spool: Spool = await in_thread(context.__enter__)
        descriptor: Descriptor = await in_thread(_compress, store, layer, diff_id, kind, spool)
        await in_thread(lease.need, [descriptor.digest], [])

        def source(offset: int) -> AsyncIterator[bytes]:
            return chunks(spool.path, Span(0, descriptor.size), offset)

        await fetch(store.blobs, descriptor, source)
    finally:
        context.__exit__(None, None, None)
    report(Progress(Phase.COMPRESS, subject, size, size, finished=True))
    return descriptor


def _compress(
    store: ImageStore, layer: Descriptor, diff_id: Digest, kind: Written, spool: Spool
) -> Descriptor:
    """Write the layer anew, its diff ID checked on the way; blocking."""
    plain, packed = Decompressor(), compressor(kind)
    tar, blob, size = hashlib.new(diff_id.algorithm), hashlib.sha256(), 0

    def put(data: bytes) -> None:
        nonlocal size
        size += len(data)
        blob.update(data)
        spool.write(data)

    for chunk in store.blobs.chunks(layer.digest, layer.size):
        for part in plain.feed(chunk):
            tar.update(part)
            put(packed.compress(part))
    for part in plain.finish():
        tar.update(part)
        put(packed.compress(part))
    put(packed.flush())
    if tar.hexdigest() != diff_id.hex:
        raise Corrupt(f"blob {layer.digest} is not the layer {diff_id}", hint="pull the image again")
    return layer_descriptor(kind, Digest("sha256", blob.hexdigest()), size)


def _record(
    store: ImageStore, image: ImageRecord, found: Found, layers: list[Descriptor], lease: Pulling
) -> ImageRecord:
    """Publish the manifest and record the image; blocking."""
    config = msgspec.structs.replace(found.manifest.config, media_type=mediatypes.OCI_CONFIG)
    data = msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_MANIFEST,
            "config": descriptor_json(config),
            "layers": [descriptor_json(layer) for layer in layers],
            **({"annotations": found.manifest.annotations} if found.manifest.annotations else {}),
        }
    )
    lease.need([Digest.of(data)], [])
    manifest = msgspec.structs.replace(
        found.manifest,
        media_type=mediatypes.OCI_MANIFEST,
        digest=store.blobs.put(data),
        size=len(data),
        config=config,
        layers=tuple(layers),
    )
    record = record_of(manifest, found.config, f"converted from {image.digest}", time.time())
    record = msgspec.structs.replace(record, looks=image.looks, hidden=image.hidden)
    known = store.catalogue.image(record.digest)
    if known is None:
        store.catalogue.add(record)
    return known or record
