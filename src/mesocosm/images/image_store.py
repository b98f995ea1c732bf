"""Everything below ``<root>/images``, opened together.  docs/image-store.md is the normative layout.

    version        the layout's version
    blobs/         bytes by digest                 (blobs.py)
    layers/ trees/ layers by diff ID               (layers/store.py)
    merged/        deep stacks by chain ID         (layers/merging.py)
    looks/         how directories look            (layers/looks.py)
    images/ refs/  what there is and its names     (catalogue.py)
    leases/ lock   who needs what                  (leases.py)
    signatures/    why images were admitted        (trust/admission.py)
    attached/      signatures, attestations, …     (attachments.py)
    ingest/        whatever is not finished yet
    trash/         renamed here first, removed later

Nothing in it holds an absolute path: the whole may be moved.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

from mesocosm import durable
from mesocosm.errors import Corrupt, Denied, Unsupported
from mesocosm.images import mediatypes
from mesocosm.images.attachments import Attachments
from mesocosm.images.blobs import BlobStore
from mesocosm.images.catalogue import Catalogue
from mesocosm.images.digest import Digest
from mesocosm.images.image import ImageRecord
from mesocosm.images.layers.looks import Look, closing, find_looks, hides_all, write_looks
from mesocosm.images.layers.merging import Merges
from mesocosm.images.layers.mounts import mount_image
from mesocosm.images.layers.store import Form, LayerRecord, LayerStore
from mesocosm.images.leases import Holds, Leases, always
from mesocosm.images.staging import replace, staged
from mesocosm.images.store_faults import store_faults

VERSION: Final = 1

_Records = Mapping[Digest, LayerRecord | None]
_Implied = Mapping[Digest, tuple[str, ...] | None]


class ImageStore:
    """The parts of one image store; any number of processes may use it at once."""

    def __init__(self, root: Path, holds: Holds = always) -> None:
        self.root = root
        self.blobs = BlobStore.open(root)
        self.layers = LayerStore(root, self.blobs)
        self.merges = Merges(self.layers)
        self.catalogue = Catalogue(root)
        self.leases = Leases(root, holds)
        self.attachments = Attachments(root)

    @classmethod
    def open(cls, root: Path, holds: Holds = always) -> ImageStore:
        """Open the store at ``root``, made where it is not there; blocking.  ``holds`` is for its leases.

        Raises Unsupported for a store with a layout that this version does not know, Denied to who may not.
        """
        with store_faults(root):
            return cls._open(root, holds)

    @classmethod
    def _open(cls, root: Path, holds: Holds) -> ImageStore:
        store = cls(root, holds)
        _check_owner(root)
        _check_version(root / "version")
        for part in (store.layers, store.catalogue, store.leases):
            part.prepare()
        for name in ("looks", "signatures", "attached"):
            (root / name).mkdir(mode=0o700, exist_ok=True)
        return store

    def complete(self, image: ImageRecord, form: Form) -> bool:
        """Whether every layer of the image is there in ``form``, and its documents are."""
        layers = self.layers.has_all(image.diff_ids, form)
        looks = not image.looks or self.looks(image).exists()
        return layers and looks and all(map(self.blobs.has, image.documents))

    def looks(self, image: ImageRecord) -> Path:
        """Return where the tree is that says how the image's directories look, or would be."""
        return self.root / "looks" / image.chain_id.hex

    def settle_looks(self, image: ImageRecord, form: Form) -> ImageRecord:
        """Make that tree where the image needs one, and return its record, which says so; blocking.

        The record also says which layers are hidden: overlayfs asks no root directory whether it is opaque.
        All layers have to be there.  Corrupt where one of them is not what the image calls it.
        """
        records = {diff_id: self.layers.record(diff_id, form) for diff_id in image.diff_ids}
        _require_kinds(image, records)
        hidden = self._hidden(image, form, records)
        image = msgspec.structs.replace(image, hidden=hidden)
        implied = {diff_id: _implied(record) for diff_id, record in records.items()}
        if all(implied[diff_id] == () for diff_id in image.diff_ids[hidden + 1 :]):
            return image
        looks = self._find_looks(image, form, implied)
        if looks and not self.looks(image).exists():
            self._publish_looks(image, looks)
        return msgspec.structs.replace(image, looks=bool(looks))

    def _hidden(self, image: ImageRecord, form: Form, records: _Records) -> int:
        """How many layers lie below the highest that hides everything (OCI image spec, "Opaque Whiteout")."""
        for number in range(len(image.diff_ids) - 1, 0, -1):
            record = records[image.diff_ids[number]]
            opaque = record.opaque if record is not None else None
            if opaque is None:
                content = self.layers.content(image.diff_ids[number], form)
                with closing([open_layer(content, form)]) as held:
                    opaque = hides_all(held[0])
            if opaque:
                return number
        return 0

    def condemn_looks(self, needed: Collection[str]) -> None:
        """Move the trees of images that are gone to the trash; ``needed`` are hex chain IDs."""
        for name in os.listdir(self.root / "looks"):  # noqa: PTH208
            if name not in needed:
                (self.root / "looks" / name).rename(self.root / "trash" / secrets.token_hex(16))

    def _find_looks(self, image: ImageRecord, form: Form, implied: _Implied) -> dict[bytes, Look]:
        order = list(dict.fromkeys(reversed(image.diff_ids[image.hidden :])))
        with closing([]) as layers:
            for diff_id in order:
                layers.append(open_layer(self.layers.content(diff_id, form), form))
            return find_looks(layers, [implied[diff_id] for diff_id in order])

    def _publish_looks(self, image: ImageRecord, looks: dict[bytes, Look]) -> None:
        with staged(self.root / "ingest", "looks-") as staging:
            fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fchmod(fd, 0o755)  # whatever the umask: where layers are copied it becomes the root's
                write_looks(fd, looks)
            finally:
                os.close(fd)
            try:
                staging.rename(self.looks(image))
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        durable.sync(self.root / "looks")

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
        with store_faults(self.root):
            self.layers.empty_trash()
            return self.blobs.sweep(older_than=older_than)


def _require_kinds(image: ImageRecord, records: _Records) -> None:
    """An EROFS file that one image brought is not to be another's archive, which policy takes from anybody
    (I-21).
    """
    for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
        record = records[diff_id]
        if record is not None and record.ready and layer.media_type not in mediatypes.EROFS:
            raise Corrupt(
                f"image {image.digest}: {diff_id} is an EROFS file, which its manifest calls an archive",
                hint="its publisher has to give it the media type of an EROFS layer",
            )


def _implied(record: LayerRecord | None) -> tuple[str, ...] | None:
    """Where a layer's implied directories are; None when it has to be walked through."""
    return None if record is None else record.implied_at if record.implied else ()


def open_layer(content: Path, form: Form) -> int:
    """Return a descriptor of a layer's root directory, which closing unmounts; blocking."""
    if form is Form.EROFS:
        return mount_image((content,))
    return os.open(content, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _check_owner(root: Path) -> None:
    """Whoever owns it can put whatever they like under every digest, set-user-ID files too."""
    owner = root.stat().st_uid
    if owner != os.geteuid():
        hint = f"give --root a directory of your own; if it is meant, chown -R {os.geteuid()} {root}"
        raise Denied(f"images in {root} belong to user {owner}", hint=hint)


def _check_version(path: Path) -> None:
    try:
        text = durable.read(path)
    except FileNotFoundError:
        replace(path.with_name("ingest"), path, b"%d\n" % VERSION)
        return
    except Corrupt as error:
        raise Unsupported(f"image store {path.parent} has no readable version") from error
    if text.strip() != b"%d" % VERSION:
        raise Unsupported(
            f"image store {path.parent} has a layout of another version",
            hint=f"this mesocosm knows version {VERSION}; use its own --root",
        )
