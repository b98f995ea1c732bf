"""Collection: what nobody names, holds or may still want, taken away; the plan can be seen first.

Mark: images that are named, pinned, or leased stay, with their layers and blobs; so does everything a lease
names, a pull under way included.  Sweep, under the leases' lock: records first, then layers and blobs, by
renaming them to the trash; a crash in between leaves layers without an image, which the next collection
finds.  Removing what is in the trash needs no lock.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable

import msgspec

from mesocosm import trace
from mesocosm.images.blobs import PARTIAL_AGE
from mesocosm.images.digest import Digest, hex_of
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.store import Form
from mesocosm.images.leases import PIN, Needed
from mesocosm.images.rebuild import rebuild
from mesocosm.images.reference import parse_reference
from mesocosm.images.store_faults import store_faults
from mesocosm.model.size import size as words


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When named images are collected too, those unused for longest first.

    ``high`` and ``low``: shares of the file system in use at which it begins and ends.  ``budget``: bytes
    that all images together may have, once they have more than ``ceiling``.  ``age``: seconds without use
    after which an image goes in any case; ``spare``: seconds after its last use in which none goes.
    """

    high: float | None = None
    low: float = 0.8
    budget: int | None = None
    ceiling: int | None = None
    age: float | None = None
    spare: float = 0.0


class Reason(msgspec.Struct, frozen=True):
    """Why an image goes: what it is called, the bytes that go with it, in words why."""

    image: str
    size: int
    why: str


class Held(msgspec.Struct, frozen=True):
    """An image that would go, were it not for these owners of leases."""

    image: str
    owners: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What would be removed: images (digests), layers (diff ID and form), blobs; ``size`` in bytes.

    ``reasons`` tell of images that make room, ``held`` of those that do not because somebody has them.
    """

    images: tuple[str, ...] = ()
    layers: tuple[tuple[str, Form], ...] = ()
    blobs: tuple[str, ...] = ()
    size: int = 0
    reasons: tuple[Reason, ...] = ()
    held: tuple[Held, ...] = ()

    def joined(self, other: Plan) -> Plan:
        """Both plans, one after the other."""
        return Plan(
            images=(*self.images, *other.images),
            layers=(*self.layers, *other.layers),
            blobs=(*self.blobs, *other.blobs),
            size=self.size + other.size,
            reasons=(*self.reasons, *other.reasons),
            held=(*self.held, *other.held),
        )

    @property
    def empty(self) -> bool:
        """Whether nothing would be removed."""
        return not (self.images or self.layers or self.blobs)


class _Idle(msgspec.Struct, frozen=True):
    """An image that nobody holds, its names, and the seconds since its last use."""

    image: ImageRecord
    names: tuple[str, ...]
    seconds: float


def _is_old(one: _Idle, limits: Limits) -> bool:
    return limits.age is not None and one.seconds > limits.age


class Collector:
    """Collects in one store; blocking."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def plan(self, limits: Limits | None = None) -> Plan:
        """Return what `collect` would remove now; without ``limits`` only what has no name."""
        return self._plan(self._store.leases.shown(), limits)

    def collect(self, limits: Limits | None = None) -> Plan:
        """Remove what the plan says at the moment of removing, and return it."""
        with store_faults(self._store.root):
            rebuild(self._store)
        with store_faults(self._store.root), self._store.leases.frozen() as needed:
            plan = self._plan(needed, limits)
            self._condemn(needed, plan)
        self._store.sweep(older_than=time.time() - PARTIAL_AGE)
        return plan

    # --- making room, image by image ------------------------------------------------------------------------

    def is_due(self, limits: Limits) -> bool:
        """Whether `make_room` has anything to do: a mark is passed, or an image is too old."""
        if self._excess(limits) > 0:
            return True
        return any(_is_old(one, limits) for one in self._by_use(self._store.leases.needed(), limits))

    def room(self, limits: Limits) -> Plan:
        """Return what `make_room` would remove now."""
        if not self.is_due(limits):
            return Plan()
        needed, excess, doomed = self._store.leases.shown(), self._excess(limits), list[str]()
        plan = self._sweep(needed, frozenset())
        for one in self._by_use(needed, limits):
            if _is_old(one, limits) or excess > plan.size:
                doomed.append(one.image.digest)
                swept = self._sweep(needed, frozenset(doomed))
                reason = self._reason(one, limits, swept.size - plan.size)
                plan = msgspec.structs.replace(swept, reasons=(*plan.reasons, reason))
        return msgspec.structs.replace(plan, held=self._held(needed, limits, excess - plan.size))

    def make_room(self, limits: Limits, stopped: Callable[[], bool]) -> Plan:
        """Remove images until the marks are kept, or until ``stopped``; the lock is held for one at a time.

        What is nobody's goes first, then what has no name, then what was unused for longest.
        """
        with store_faults(self._store.root):
            rebuild(self._store)
        excess, done = self._excess(limits), Plan()
        while not stopped():
            with store_faults(self._store.root), self._store.leases.frozen() as needed:
                plan = self._next(needed, limits, excess - done.size)
                self._condemn(needed, plan)
            self._store.sweep(older_than=time.time() - PARTIAL_AGE)
            if plan.empty:
                break
            trace.point("collect.step")
            done = done.joined(plan)
        return done

    def _next(self, needed: Needed, limits: Limits, excess: int) -> Plan:
        garbage = self._sweep(needed, frozenset())
        if not garbage.empty:
            return garbage
        for one in self._by_use(needed, limits):
            if excess > 0 or _is_old(one, limits):
                plan = self._sweep(needed, frozenset({one.image.digest}))
                return msgspec.structs.replace(plan, reasons=(self._reason(one, limits, plan.size),))
        return Plan()

    def _by_use(self, needed: Needed, limits: Limits) -> list[_Idle]:
        """Images that may go, in the order in which they do."""
        names: dict[str, list[str]] = {}
        for ref in self._store.catalogue.refs():
            names.setdefault(ref.digest, []).append(ref.reference)
        now = time.time()
        idle = [
            _Idle(
                image,
                tuple(names.get(image.digest, ())),
                max(0.0, now - self._store.catalogue.last_used(image.digest)),  # the clock was set back
            )
            for image in self._store.catalogue.images()
            if image.digest not in needed.digests
        ]
        free = [one for one in idle if one.seconds >= limits.spare]
        return sorted(free, key=lambda one: (bool(one.names), -one.seconds))

    def _reason(self, one: _Idle, limits: Limits, freed: int) -> Reason:
        marks = []
        if limits.high is not None:
            marks.append(f"more than {limits.high:.0%} of the disk in use")
        if limits.budget is not None:
            marks.append(f"images take more than {words(limits.ceiling or limits.budget)}")
        why = "for long" if _is_old(one, limits) else f"and {' or '.join(marks)}"
        unused = f"unused for {one.seconds / 3600:.1f} hours" if one.seconds >= 360 else "unused"
        names = sorted(parse_reference(name).familiar for name in one.names)
        return Reason(", ".join(names) or one.image.digest, freed, f"{unused} {why}")

    def _held(self, needed: Needed, limits: Limits, lacking: int) -> tuple[Held, ...]:
        """Images that would go: those that are too old, and all while ``lacking`` bytes are still to go."""
        oldest = time.time() - limits.age if limits.age is not None else -math.inf
        last_used = self._store.catalogue.last_used
        return tuple(
            Held(image.digest, needed.owners[image.digest])
            for image in self._store.catalogue.images()
            if image.digest in needed.owners and (lacking > 0 or last_used(image.digest) < oldest)
        )

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

    def _plan(self, needed: Needed, limits: Limits | None) -> Plan:
        named = {ref.digest for ref in self._store.catalogue.refs()}
        free = [image for image in self._store.catalogue.images() if image.digest not in needed.digests]
        doomed = {image.digest for image in free if image.digest not in named}
        if limits is not None:
            doomed |= self._beyond(
                limits, [image for image in free if image.digest not in doomed], needed, doomed
            )
        plan = self._sweep(needed, frozenset(doomed))
        if limits is None:
            return plan
        held = self._held(needed, limits, self._excess(limits) - plan.size)
        return msgspec.structs.replace(plan, held=held)

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
            size = self.size()
            excess = size - limits.budget if limits.ceiling is None or size > limits.ceiling else 0
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
