"""Deep stacks kept as one layer: the merge of an image's layers, made when it is needed.

    merged/<chain ID's hex>/    layer.erofs, metadata only, and layer.json beside it

A merge refers to places in the layers' files, so its record names what they were when it was made; one that
was made of other files is made anew.  It is in the layer store like a layer, under the chain ID: published
whole, leased, collected and verified as layers are.  Where the kernel cannot mount one, none is made, and the
layers are stacked as they are.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mesocosm.errors import Corrupt
from mesocosm.images.digest import Digest
from mesocosm.images.image import ImageRecord
from mesocosm.images.layers.mounts import takes_devices
from mesocosm.images.layers.store import CONTENT, Form, LayerRecord, LayerStore


class Merges:
    """The merges of one store; stateless, any number of processes may use it at once."""

    def __init__(self, layers: LayerStore) -> None:
        self._layers = layers

    def of(self, image: ImageRecord) -> Digest | None:
        """Return what the image's merge is called; None for an image that is mounted layer by layer."""
        return image.merge if image.merge is not None and takes_devices() else None

    def files(self, image: ImageRecord) -> tuple[Path, ...]:
        """Return the files that the image's merge refers to, bottom first: devices of its mount."""
        return tuple(self._layers.content(diff_id, Form.EROFS) for diff_id in image.diff_ids)

    def have(self, image: ImageRecord) -> None:
        """Have the image's merge, made of the layers as they are; blocking.

        Nothing for an image that has none.  All its EROFS layers are there, and leased.  Raises Exhausted for
        an image too large, Corrupt for a damaged layer.
        """
        merge = self.of(image)
        if merge is None:
            return
        with self._layers.being_made(merge, Form.MERGED) as staging:
            origin = self._origin(image)
            present = self._layers.record(merge, Form.MERGED)
            if present is not None and present.blob == str(origin):
                return
            self._layers.condemn(merge, Form.MERGED)
            self._make(image, merge, origin, staging)

    def _origin(self, image: ImageRecord) -> Digest:
        """The digest of what the layers' files are: their seals and sizes."""
        records = [self._layers.record(diff_id, Form.EROFS) for diff_id in image.diff_ids]
        for diff_id, record in zip(image.diff_ids, records, strict=True):
            if record is None:
                raise Corrupt(f"layer {diff_id} has no readable record", hint="pull the image again")
        return Digest.of(msgspec.json.encode([(record.seal, record.size) for record in records if record]))

    def _make(self, image: ImageRecord, merge: Digest, origin: Digest, staging: Path) -> None:
        from mesocosm.images.erofs.merge import write_merged  # the writer: only who makes one needs it

        staging.mkdir(mode=0o700)
        made = write_merged(
            staging / CONTENT[Form.MERGED], self.files(image), merge, limits=self._layers.limits
        )
        self._layers.publish(
            staging,
            LayerRecord(
                diff_id=str(merge),
                form=Form.MERGED,
                size=made.size,
                seal=made.seal,
                blob=str(origin),
                tar_size=0,
                entries=made.inodes,
                implied=0,
                implied_at=(),
                compression="none",
            ),
        )
