"""Collection: what nobody names, holds or may still want, taken away; the plan can be seen first.

Mark: images that are named, pinned, or leased stay, with their layers and blobs; so does everything a lease
names, a pull under way included.  Sweep, under the leases' lock: records first, then layers and blobs, by
renaming them to the trash; a crash in between leaves layers without an image, which the next collection
finds.  Removing what is in the trash needs no lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from mesocosm import trace
from mesocosm.images.digest import Digest, hex_of
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers import Form
from mesocosm.images.leases import PIN, Needed
from mesocosm.images.rebuild import rebuild
from mesocosm.images.store_faults import store_faults

PARTIAL_AGE: Final = 24 * 3600.0
"""Seconds that an unfinished download is kept for being resumed."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When named images are collected too, those unused for longest first.

    ``high`` and ``low``: shares of the file system in use at which it begins and ends.  ``budget``: bytes
    that all images together may have.  ``age``: seconds without use after which an image goes in any case.
    """

    high: float | None = None
    low: float = 0.8
    budget: int | None = None
    age: float | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What would be removed: images (digests), layers (diff ID and form), blobs; ``size`` in bytes."""

    images: tuple[str, ...] = ()
    layers: tuple[tuple[str, Form], ...] = ()
    blobs: tuple[str, ...] = ()
    size: int = 0

    @property
    def empty(self) -> bool:
        """Whether nothing would be removed."""
        return not (self.images or self.layers or self.blobs)


class Collector:
    """Collects in one store; blocking."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def plan(self, limits: Limits | None = None, *, dangling: bool = True) -> Plan:
        """Return what `collect` would remove now.

        Without ``limits`` only what has no name; ``dangling`` False spares nameless images too.
        """
        return self._plan(self._store.leases.needed(), limits, dangling)

    def collect(self, limits: Limits | None = None, *, dangling: bool = True) -> Plan:
        """Remove what the plan says at the moment of removing, and return it."""
        with store_faults(self._store.root):
            rebuild(self._store)
        with store_faults(self._store.root), self._store.leases.frozen() as needed:
            plan = self._plan(needed, limits, dangling)
            self._condemn(needed, plan)
        self._store.sweep(older_than=time.time() - PARTIAL_AGE)
        return plan

    def remove(self, digests: Iterable[str]) -> Plan:
        """Remove these images, unless a lease holds them, and what only they needed."""
        with store_faults(self._store.root), self._store.leases.frozen() as needed:
            doomed = frozenset(digests) - needed.digests
            plan = self._sweep(needed, doomed)
            self._condemn(needed, plan)
        self._store.sweep(older_than=time.time() - PARTIAL_AGE)
        return plan

    def _condemn_looks(self, needed: Needed) -> None:
        images = self._store.catalogue.images()
        kept = {image.chain_id.hex for image in images if image.looks}
        self._store.condemn_looks(kept | set(map(hex_of, needed.layers)))

    # --- marking --------------------------------------------------------------------------------------------

    def _plan(self, needed: Needed, limits: Limits | None, dangling: bool) -> Plan:
        named = {ref.digest for ref in self._store.catalogue.refs()}
        free = [image for image in self._store.catalogue.images() if image.digest not in needed.digests]
        doomed = {image.digest for image in free if dangling and image.digest not in named}
        if limits is not None:
            doomed |= self._beyond(
                limits, [image for image in free if image.digest not in doomed], needed, doomed
            )
        return self._sweep(needed, frozenset(doomed))

    def _beyond(
        self, limits: Limits, images: list[ImageRecord], needed: Needed, doomed: set[str]
    ) -> set[str]:
        """Images that go because of age, then because of size, those unused for longest first."""
        catalogue = self._store.catalogue
        by_use = sorted(images, key=lambda image: catalogue.last_used(image.digest))
        gone = set()
        if limits.age is not None:
            oldest = time.time() - limits.age
            gone = {image.digest for image in by_use if catalogue.last_used(image.digest) < oldest}
        excess = self._excess(limits)
        for image in by_use:
            if excess <= self._sweep(needed, frozenset(gone | doomed)).size:
                break
            gone.add(image.digest)
        return gone

    def _excess(self, limits: Limits) -> int:
        """Bytes that have to go."""
        excess = 0
        if limits.budget is not None:
            excess = self.size() - limits.budget
        if limits.high is not None:
            disk = os.statvfs(self._store.root)
            total = disk.f_blocks * disk.f_frsize
            used = total - disk.f_bavail * disk.f_frsize
            if used > limits.high * total:
                excess = max(excess, used - int(limits.low * total))
        return max(excess, 0)

    def _sweep(self, needed: Needed, doomed: frozenset[str]) -> Plan:
        """What goes with ``doomed`` images, and what belongs to no image at all."""
        kept = [image for image in self._store.catalogue.images() if image.digest not in doomed]
        layers = {str(stored) for image in kept for stored in image.stored} | needed.layers
        blobs = {layer.digest for image in kept for layer in image.layers} | needed.digests
        blobs |= {str(digest) for image in kept for digest in image.kept}
        tops = self._tops(doomed)
        blobs |= tops | self._store.attachments.digests({image.digest for image in kept} | tops)
        old_layers = [
            (str(diff_id), form) for diff_id, form in self._store.layers.list() if str(diff_id) not in layers
        ]
        old_blobs = [stored for stored in self._store.blobs.list() if str(stored.digest) not in blobs]
        return Plan(
            images=tuple(sorted(doomed)),
            layers=tuple(sorted(old_layers)),
            blobs=tuple(sorted(str(stored.digest) for stored in old_blobs)),
            size=sum(self._layer_size(*layer) for layer in old_layers)
            + sum(stored.size for stored in old_blobs),
        )

    def _tops(self, doomed: Collection[str]) -> set[str]:
        """The indexes that names stand for."""
        refs = [ref for ref in self._store.catalogue.refs() if ref.digest not in doomed]
        return {top for ref in refs for top in (ref.top, ref.index) if top}

    def size(self) -> int:
        """Return the bytes of all layers and blobs."""
        layers = sum(self._layer_size(str(diff_id), form) for diff_id, form in self._store.layers.list())
        return layers + sum(stored.size for stored in self._store.blobs.list())

    def _layer_size(self, diff_id: str, form: Form) -> int:
        record = self._store.layers.record(Digest.parse(diff_id), form)
        return record.size if record else 0

    # --- sweeping -------------------------------------------------------------------------------------------

    def _condemn(self, needed: Needed, plan: Plan) -> None:
        doomed = set(plan.images)
        for ref in [ref for ref in self._store.catalogue.refs() if ref.digest in doomed]:
            self._store.catalogue.unname(ref.reference, ref.platform)
        for digest in plan.images:
            self._store.catalogue.forget(digest)
            (self._store.root / "signatures" / f"{Digest.parse(digest).hex}.json").unlink(missing_ok=True)
            self._store.leases.drop(f"{PIN}{Digest.parse(digest).hex}")
            trace.point("collect.forgotten")
        for diff_id, form in plan.layers:
            self._store.layers.condemn(Digest.parse(diff_id), form)
            trace.point("collect.layer")
        for digest in plan.blobs:
            self._store.blobs.delete(Digest.parse(digest))
            trace.point("collect.blob")
        self._condemn_looks(needed)
        images = {image.digest for image in self._store.catalogue.images()}
        self._store.attachments.forget_all_but(images | self._tops(()))
