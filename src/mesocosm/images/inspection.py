"""What images there are, what they take, and who holds them."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from mesocosm.images.collect import Collector
from mesocosm.images.config import History, ImageConfig, parse_config
from mesocosm.images.digest import Digest
from mesocosm.images.image import Image, ImageRecord, RefRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.store import Form
from mesocosm.images.leases import CONTAINER, PIN, Needed
from mesocosm.images.strict import DOCUMENT_LIMIT


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an image's making, latest first in lists; ``layer`` and its ``size`` when it made one."""

    created: str
    created_by: str
    comment: str
    layer: str | None
    size: int


class LayerUse(msgspec.Struct, frozen=True, kw_only=True):
    """A layer on disk: its forms, bytes in all of them, the images it belongs to, whether it is mounted."""

    diff_id: str
    forms: tuple[str, ...]
    size: int
    images: tuple[str, ...]
    mounted: bool


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What the image store takes, in bytes.  ``reclaimable`` belongs to no image that is named or held;
    ``shared`` is the part of ``layers`` that more than one image has."""

    layers: int
    blobs: int
    shared: int
    reclaimable: int
    images: tuple[Image, ...]
    by_layer: tuple[LayerUse, ...]


class Inspection:
    """Reads one store; blocking.  ``form`` answers what form of layers this host mounts."""

    def __init__(self, store: ImageStore, form: Callable[[], Form], mounted: Callable[[], list[str]]) -> None:
        self._store = store
        self._form = form
        self._mounted = mounted

    def images(self) -> list[Image]:
        """Return every image, the latest pulled first."""
        needed = self._store.leases.shown()
        refs: dict[str, list[RefRecord]] = {}
        for ref in self._store.catalogue.refs():
            refs.setdefault(ref.digest, []).append(ref)
        found = [
            self._image(record, refs.get(record.digest, []), needed)
            for record in self._store.catalogue.images()
        ]
        return sorted(found, key=lambda image: (-image.pulled_at, image.digest))

    def image(self, record: ImageRecord, names: Collection[str] | None = None) -> Image:
        """Return one image, with all its names, or those of ``names`` that it has."""
        refs = [ref for ref in self._store.catalogue.refs() if ref.digest == record.digest]
        if names is not None:
            refs = [ref for ref in refs if ref.reference in names]
        return self._image(record, refs, self._store.leases.shown())

    def config(self, record: ImageRecord) -> ImageConfig:
        """Return an image's configuration, verified."""
        digest = Digest.parse(record.image_id)
        data = self._store.blobs.read(digest, limit=DOCUMENT_LIMIT)
        return parse_config(data, algorithm=digest.algorithm, what=f"image {record.digest}")

    def documents(self, record: ImageRecord) -> tuple[bytes, bytes]:
        """Return the exact bytes of an image's manifest and configuration, verified."""
        manifest, config = record.documents
        read = self._store.blobs.read
        return read(manifest, limit=DOCUMENT_LIMIT), read(config, limit=DOCUMENT_LIMIT)

    def history(self, record: ImageRecord) -> list[Step]:
        """Return how an image was made, the latest step first."""
        layers = iter(record.layers)
        steps = []
        for entry in self.config(record).history:
            layer = None if entry.empty_layer else next(layers, None)
            steps.append(
                _step(
                    entry, layer.diff_id if layer else None, self._layer_size(layer.diff_id) if layer else 0
                )
            )
        steps += [_step(History(), layer.diff_id, self._layer_size(layer.diff_id)) for layer in layers]
        return steps[::-1]

    def usage(self) -> Usage:
        """Return what everything takes, and who has it."""
        images = self.images()
        owners: dict[str, list[str]] = {}
        for image in images:
            for stored in image.stored:
                owners.setdefault(stored, []).append(image.digest)
        mounted = set(self._mounted())
        forms: dict[str, list[Form]] = {}
        for diff_id, form in self._store.layers.list():
            forms.setdefault(str(diff_id), []).append(form)
        layers = tuple(
            LayerUse(
                diff_id=diff_id,
                forms=tuple(sorted(present)),
                size=self._layer_size(diff_id),
                images=tuple(sorted(set(owners.get(diff_id, ())))),
                mounted=Digest.parse(diff_id).hex in mounted,
            )
            for diff_id, present in sorted(forms.items())
        )
        return Usage(
            layers=sum(layer.size for layer in layers),
            blobs=sum(stored.size for stored in self._store.blobs.list()),
            shared=sum(layer.size for layer in layers if len(layer.images) > 1),
            reclaimable=Collector(self._store).plan().size,
            images=tuple(images),
            by_layer=layers,
        )

    def _image(self, record: ImageRecord, refs: list[RefRecord], needed: Needed) -> Image:
        owners = needed.owners.get(record.digest, ())
        checked = [ref.checked_at for ref in refs if ref.checked_at is not None]
        return Image(
            references=tuple(sorted(ref.reference for ref in refs)),
            digest=record.digest,
            image_id=record.image_id,
            platform=record.platform,
            size=sum(self._layer_size(stored) for stored in set(map(str, record.stored))),
            created=record.created,
            pulled_at=record.pulled_at,
            last_used=self._store.catalogue.last_used(record.digest),
            checked_at=max(checked, default=None),
            layers=record.layers,
            merge=None if record.merge is None else str(record.merge),
            origin=record.origin,
            runtime=record.runtime,
            source=record.source,
            in_use=tuple(sorted(o.removeprefix(CONTAINER) for o in owners if o.startswith(CONTAINER))),
            pinned=any(owner.startswith(PIN) for owner in owners),
            complete=self._store.complete(record, self._form()),
        )

    def _layer_size(self, diff_id: str) -> int:
        """Bytes of a layer in every form that is there."""
        digest = Digest.parse(diff_id)
        records = [self._store.layers.record(digest, form) for form in Form]
        return sum(record.size for record in records if record)


def _step(entry: History, layer: str | None, size: int) -> Step:
    return Step(
        created=entry.created, created_by=entry.created_by, comment=entry.comment, layer=layer, size=size
    )
