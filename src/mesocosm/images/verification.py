"""Finding flipped bits: every byte of an image on disk, read again and compared with what it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from mesocosm.errors import Busy, Corrupt, NotFound
from mesocosm.images.digest import Digest
from mesocosm.images.erofs.file import SealKind, seal_of
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.store import Form, LayerRecord
from mesocosm.images.layers.tree_seal import Reading, seal_of_tree
from mesocosm.images.leases import CONTAINER


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: ``damaged`` names each blob and layer whose bytes are others, ``absent`` what is not
    there.  ``only_as`` tells of layers that are there, and not in the form that this host's backend takes, in
    which they are (`Form`); one is made anew when it is needed.
    """

    checked: int
    damaged: tuple[str, ...]
    absent: tuple[str, ...]
    only_as: dict[str, str] = {}

    @property
    def sound(self) -> bool:
        """Whether everything is there and right."""
        return not self.damaged and not self.absent


class Verification:
    """Checks one store; blocking, reads everything."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def image(self, image: ImageRecord, form: Form) -> Verdict:
        """Check an image's documents, the blobs of it that are kept, and its layers in every form there is;
        ``form`` is the one that is wanted.

        A merge that is not there is not amiss: it is made when it is needed.
        """
        checked, damaged, absent, only_as = 0, [], [], {}
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
            forms = [one for one in Form if self._has(diff_id, one)]
            if not forms:
                absent.append(str(diff_id))
            elif form not in forms:
                only_as[str(diff_id)] = str(forms[0])
            if not all(self.layer_is_sound(diff_id, one) for one in forms):
                damaged.append(str(diff_id))
        if image.merge is not None and self._store.layers.has(image.merge, Form.MERGED):
            checked += 1
            if not self.layer_is_sound(image.merge, Form.MERGED):
                damaged.append(str(image.merge))
        return Verdict(checked=checked, damaged=tuple(damaged), absent=tuple(absent), only_as=only_as)

    def _has(self, diff_id: Digest, form: Form) -> bool:
        return self._store.layers.has(diff_id, form)

    def layer_is_sound(
        self, diff_id: Digest, form: Form, passed: Callable[[int], None] | None = None, *, fresh: bool = False
    ) -> bool:
        """Whether a layer has the bytes it had when it was made; a tree without a seal, which an earlier
        version made, is only looked for.

        ``passed`` is told of bytes read; ``fresh``: what counts is what the disk has.
        """
        record = self._store.layers.record(diff_id, form)
        if record is None:
            return False
        content = self._store.layers.content(diff_id, form)
        try:
            if form is Form.TREE:
                return not record.seal or seal_of_tree(content, Reading(passed, fresh=fresh)) == record.seal
            return _is_file_sound(content, record, passed, fresh=fresh)
        except OSError:  # the disk fails, or it is not what it was
            return False

    def discard(self, verdict: Verdict) -> list[str]:
        """Take what is damaged out of the store, so that the next pull brings it anew; but for trees that
        containers run from, which would lose their files (`require_free`).

        Returns the hex names of what may not stay mounted: it, and every merge that refers to it.
        """
        damaged, in_use = frozenset(verdict.damaged), self._in_use()
        for text in damaged:
            digest = Digest.parse(text)
            self._store.blobs.delete(digest)
            for form in Form:
                if form is not Form.TREE or text not in in_use:
                    self._store.layers.condemn(digest, form)
        self._store.sweep(older_than=0)
        merges = (
            one for one in self._store.catalogue.images() if damaged.intersection(map(str, one.diff_ids))
        )
        return [Digest.parse(text).hex for text in damaged] + [one.merge.hex for one in merges if one.merge]

    def require_free(self, verdict: Verdict) -> None:
        """Raise Busy for a damaged tree that is still there because containers run from it."""
        in_use = self._in_use()
        for text in verdict.damaged:
            digest = Digest.parse(text)
            if text in in_use and self._has(digest, Form.TREE) and not self.layer_is_sound(digest, Form.TREE):
                raise Busy(
                    f"layer {digest} is damaged, and containers run from it: {', '.join(in_use[text])}",
                    hint="end them, and do it again",
                )

    def _in_use(self) -> dict[str, list[str]]:
        """Diff IDs of layers that containers hold, and these.  A mounted file stays when it is removed, what
        is in a directory does not.
        """
        found: dict[str, list[str]] = {}
        for owner in self._store.leases.owners(CONTAINER):
            lease = self._store.leases.get(owner)
            for text in lease.layers if lease is not None else ():
                found.setdefault(text, []).append(owner.removeprefix(CONTAINER))
        return found


def _is_file_sound(
    content: Path, record: LayerRecord, passed: Callable[[int], None] | None, *, fresh: bool
) -> bool:
    kind: SealKind = "sha256" if record.seal.partition(":")[0].endswith("sha256") else "crc32"
    fd = os.open(content, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if fresh:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.fstat(fd).st_size == record.size and seal_of(fd, kind, passed) == record.seal
    finally:
        os.close(fd)
