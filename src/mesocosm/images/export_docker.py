"""Writing images out as ``docker save`` did for most of its life: plain layers, no OCI documents.

    <image ID's hex>.json     each configuration        manifest.json   what there is, with its names
    <diff ID's hex>.tar       each layer, uncompressed

For readers that know nothing newer; export.py writes what everybody else reads.  The same images give the
same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from mesocosm.errors import Corrupt, NotFound
from mesocosm.images.decompress import Decompressor
from mesocosm.images.digest import Digest
from mesocosm.images.erofs.ready import require_archives
from mesocosm.images.export import Export, Put, header, member
from mesocosm.images.image import Layer
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.store import Form
from mesocosm.images.strict import DOCUMENT_LIMIT, Json
from mesocosm.images.tar.reader import BLOCK


def save_docker(store: ImageStore, images: Sequence[Export], put: Put) -> None:
    """Write the images; blocking.

    Raises NotFound when a blob is not kept here, Corrupt when one is not what it was.
    """
    for export in images:
        require_archives(export.image)
    layers = {layer.diff_id: layer for export in images for layer in export.image.layers}
    for layer in layers.values():
        if not store.blobs.has(Digest.parse(layer.digest), layer.size):
            raise NotFound(f"blob {layer.digest} is not kept on this host", hint="pull the image again")
    for image_id in sorted({export.image.image_id for export in images}):
        data = store.blobs.read(Digest.parse(image_id), limit=DOCUMENT_LIMIT)
        member(put, f"{_hex(image_id)}.json", data)
    for _, layer in sorted(layers.items()):
        _layer(store, layer, put)
    member(put, "manifest.json", msgspec.json.encode([_entry(export) for export in images]))
    put(bytes(2 * BLOCK))


def _entry(export: Export) -> dict[str, Json]:
    layers: list[Json] = [f"{_hex(layer.diff_id)}.tar" for layer in export.image.layers]
    names: list[Json] = [name.full_name for name in export.names]
    return {"Config": f"{_hex(export.image.image_id)}.json", "RepoTags": names, "Layers": layers}


def _layer(store: ImageStore, layer: Layer, put: Put) -> None:
    """A layer as a member, its diff ID checked while it is written."""
    diff_id = Digest.parse(layer.diff_id)
    size = _plain_size(store, layer)
    put(header(f"{diff_id.hex}.tar", size))
    running, written = hashlib.new(diff_id.algorithm), 0
    for part in _plain(store, layer):
        running.update(part)
        written += len(part)
        put(part)
    if running.hexdigest() != diff_id.hex or written != size:
        raise Corrupt(f"blob {layer.digest} is not the layer {diff_id}", hint="pull the image again")
    put(bytes(-size % BLOCK))


def _plain_size(store: ImageStore, layer: Layer) -> int:
    """Bytes of the layer's tar; from its record, else by reading it once more."""
    for form in Form:
        record = store.layers.record(Digest.parse(layer.diff_id), form)
        if record is not None:
            return record.tar_size
    return sum(map(len, _plain(store, layer)))


def _plain(store: ImageStore, layer: Layer) -> Iterator[bytes]:
    stream = Decompressor()
    for chunk in store.blobs.chunks(Digest.parse(layer.digest), layer.size):
        yield from stream.feed(chunk)
    yield from stream.finish()


def _hex(digest: str) -> str:
    return digest.rpartition(":")[2]
