"""Finding flipped bits: every byte of an image on disk, read again and compared with what it was."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from mesocosm.errors import Corrupt, NotFound
from mesocosm.images.digest import Digest
from mesocosm.images.erofs.file import SealKind, seal_of
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.store import Form


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: ``damaged`` names each blob and layer whose bytes are others, ``absent`` what is not
    there.
    """

    checked: int
    damaged: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether everything is there and right."""
        return not self.damaged and not self.absent


class Verification:
    """Checks one store; blocking, reads everything."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def image(self, image: ImageRecord, form: Form) -> Verdict:
        """Check an image's documents, the blobs of it that are kept, and its layers in ``form``.

        A merge that is not there is not amiss: it is made when it is needed.
        """
        checked, damaged, absent = 0, [], []
        blobs = [Digest.parse(layer.digest) for layer in image.layers]
        for digest in (*image.kept, *blobs):
            if digest in blobs and not self._store.blobs.has(digest):
                continue
            checked += 1
            try:
                self._store.blobs.verify(digest)
            except Corrupt:
                damaged.append(str(digest))
            except NotFound:
                absent.append(str(digest))
        for diff_id in dict.fromkeys(image.diff_ids):
            checked += 1
            if not self._store.layers.has(diff_id, form):
                absent.append(str(diff_id))
            elif not self.layer_is_sound(diff_id, form):
                damaged.append(str(diff_id))
        if image.merge is not None and self._store.layers.has(image.merge, Form.MERGED):
            checked += 1
            if not self.layer_is_sound(image.merge, Form.MERGED):
                damaged.append(str(image.merge))
        return Verdict(checked=checked, damaged=tuple(damaged), absent=tuple(absent))

    def layer_is_sound(
        self, diff_id: Digest, form: Form, passed: Callable[[int], None] | None = None
    ) -> bool:
        """Whether a layer has the bytes it had when it was made; trees are only checked for being there.

        ``passed`` is told of bytes read.
        """
        record = self._store.layers.record(diff_id, form)
        if record is None:
            return False
        if form is Form.TREE:
            return True
        kind: SealKind = "sha256" if record.seal.partition(":")[0].endswith("sha256") else "crc32"
        fd = os.open(self._store.layers.content(diff_id, form), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.fstat(fd).st_size == record.size and seal_of(fd, kind, passed) == record.seal
        finally:
            os.close(fd)

    def discard(self, verdict: Verdict) -> list[str]:
        """Take what is damaged out of the store, so that the next pull brings it anew.

        Returns the hex names of what may not stay mounted: it, and every merge that refers to it.
        """
        damaged = frozenset(verdict.damaged)
        for text in damaged:
            digest = Digest.parse(text)
            self._store.blobs.delete(digest)
            for form in Form:
                self._store.layers.condemn(digest, form)
        self._store.sweep(older_than=0)
        merges = (
            one for one in self._store.catalogue.images() if damaged.intersection(map(str, one.diff_ids))
        )
        return [Digest.parse(text).hex for text in damaged] + [one.merge.hex for one in merges if one.merge]
