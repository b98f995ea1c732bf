"""From outlines to images: layers that their source says too little of are brought in and measured."""

from __future__ import annotations

from typing import Final

from mesocosm.errors import Exhausted
from mesocosm.images import mediatypes
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.image import ImageRecord
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.progress import Report
from mesocosm.images.side_by_side import side_by_side
from mesocosm.images.stores.base import Found, Outline
from mesocosm.images.synthesis import Measured

PARALLEL: Final = 3
"""Layers brought in at a time: each has a thread, and what it holds in memory."""


async def filled_in(outline: Outline, blobs: BlobStore, report: Report) -> Found:
    """Have every layer's blob in the store, measured while it comes, and return the image they make.

    Raises what the source does, Corrupt, and Exhausted for layers beyond limits.
    """
    from mesocosm.images.measuring import Measurement  # decompressors: only who pulls needs them

    async def bring(digest: Digest) -> Measured:
        size = blobs.size(digest) or await outline.size(blobs, digest, report)
        if size > DEFAULT_LIMITS.stream:
            raise Exhausted(f"layer {digest} has {size} bytes, more than the {DEFAULT_LIMITS.stream} allowed")
        measurements: list[Measurement] = []

        def begin() -> Measurement:
            measurements.append(Measurement())
            return measurements[-1]

        blob = Descriptor(mediatypes.OCI_LAYER, digest, size)
        await outline.fetch(blobs, blob, sink=begin, report=report, keep=True)
        return measurements[-1].of(digest)

    wanted = list(dict.fromkeys(outline.layers))
    measured = dict(zip(wanted, await side_by_side(bring, wanted, most=PARALLEL), strict=True))
    return await outline.make([measured[digest] for digest in outline.layers])


async def recognised(outline: Outline, image: ImageRecord) -> Found | None:
    """Return the image that the outline makes with layers which were measured for an image that is here.

    None when that has other layers, or was not made of an outline.  The result need not be the same image.
    """
    layers = _measured(image)
    if image.origin is None or [one.descriptor.digest for one in layers] != list(outline.layers):
        return None
    return await outline.make(layers)


def made_of(payload: bytes, image: ImageRecord) -> Digest | None:
    """Return the digest of the image that a manifest of schema 1 makes with another's layers; None when it
    has not those.  Raises Corrupt.
    """
    from mesocosm.images.schema1 import parse_schema1  # for few images

    manifest, layers = parse_schema1(payload, f"what image {image.digest} was made of"), _measured(image)
    if [one.descriptor.digest for one in layers] != list(manifest.layers):
        return None
    return manifest.documents(layers)[0].digest


def _measured(image: ImageRecord) -> list[Measured]:
    return [
        Measured(
            Descriptor(layer.media_type, Digest.parse(layer.digest), layer.size),
            Digest.parse(layer.diff_id),
        )
        for layer in image.layers
    ]
