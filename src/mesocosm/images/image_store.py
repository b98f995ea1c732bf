"""Everything below ``<root>/images``, opened together.  docs/image-store.md is the normative layout.

    version        the layout's version
    blobs/         bytes by digest                 (blobs.py)
    layers/ trees/ layers by diff ID               (layers.py)
    images/ refs/  what there is and its names     (catalogue.py)
    leases/ lock   who needs what                  (leases.py)
    ingest/        whatever is not finished yet
    trash/         renamed here first, removed later

Nothing in it holds an absolute path: the whole may be moved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mesocosm import durable
from mesocosm.errors import Corrupt, Unsupported
from mesocosm.images.blobs import BlobStore
from mesocosm.images.catalogue import Catalogue
from mesocosm.images.image import ImageRecord
from mesocosm.images.layers import Form, LayerStore
from mesocosm.images.leases import Leases

VERSION: Final = 1


class ImageStore:
    """The parts of one image store; stateless, any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobStore.open(root)
        self.layers = LayerStore(root, self.blobs)
        self.catalogue = Catalogue(root)
        self.leases = Leases(root)

    @classmethod
    def open(cls, root: Path) -> ImageStore:
        """Open the store at ``root``, made where it is not there; blocking.

        Raises Unsupported for a store with a layout that this version does not know.
        """
        store = cls(root)
        _check_version(root / "version")
        for part in (store.layers, store.catalogue, store.leases):
            part.prepare()
        return store

    def complete(self, image: ImageRecord, form: Form) -> bool:
        """Whether every layer of the image is there in ``form``, and its documents are."""
        layers = all(self.layers.has(diff_id, form) for diff_id in image.diff_ids)
        return layers and all(map(self.blobs.has, image.documents))

    def missing(self, image: ImageRecord, form: Form) -> frozenset[str]:
        """Return the digests of the blobs that have to be read to make the image complete."""
        return frozenset(
            layer.digest
            for layer, diff_id in zip(image.layers, image.diff_ids, strict=True)
            if not self.layers.has(diff_id, form)
        )

    def sweep(self, *, older_than: float | None = None) -> int:
        """Remove what crashes left unfinished and what was condemned; return the bytes of blobs freed;
        blocking.

        ``older_than``, seconds since the epoch, spares partial blobs that are younger: they may be resumed.
        """
        self.layers.empty_trash()
        return self.blobs.sweep(older_than=older_than)


def _check_version(path: Path) -> None:
    try:
        text = durable.read(path)
    except FileNotFoundError:
        durable.write(path, b"%d\n" % VERSION)
        return
    except Corrupt as error:
        raise Unsupported(f"image store {path.parent} has no readable version") from error
    if text.strip() != b"%d" % VERSION:
        raise Unsupported(
            f"image store {path.parent} has a layout of another version",
            hint=f"this mesocosm knows version {VERSION}; use its own --root",
        )
