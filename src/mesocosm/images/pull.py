"""Pulling: from a reference to an image whose layers are there, named, and recorded.

    discover ──► policy ──► lease ──► documents, layers (in parallel, while they stream) ──► image ──► name

Each arrow is a point where everything may stop for good: what is published is whole, what is not is resumed
or swept, and the name appears last.  An outline (stores/base.py) is filled in under the lease, and policy
asked once more.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from mesocosm import trace
from mesocosm.errors import Corrupt, Denied, Exhausted, NotFound
from mesocosm.images.automatic import Automatic
from mesocosm.images.digest import Digest
from mesocosm.images.families import Families
from mesocosm.images.flights import Flights
from mesocosm.images.image import ImageRecord, RefRecord, record_of
from mesocosm.images.image_store import ImageStore
from mesocosm.images.known import found_here
from mesocosm.images.layers.store import Form
from mesocosm.images.leases import Pulling
from mesocosm.images.naming import platform_key
from mesocosm.images.outlines import PARALLEL, filled_in, recognised
from mesocosm.images.platform import Platform, recorded
from mesocosm.images.progress import Phase, Progress, Report
from mesocosm.images.reference import Reference
from mesocosm.images.side_by_side import side_by_side
from mesocosm.images.store_faults import is_full, store_faults
from mesocosm.images.stores.base import Found, Outline
from mesocosm.images.stores.resolve import require_pinned
from mesocosm.images.supply import found_again
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust.admission import Admission
from mesocosm.images.trust.rights import Hearsay, Rights

_Result = TypeVar("_Result")

_NAMELESS = Reference("docker-archive", path="-")


class Pulled(msgspec.Struct, frozen=True):
    """An image that is there now, and what its name points at."""

    image: ImageRecord
    ref: RefRecord


class Wanted(msgspec.Struct, frozen=True):
    """What is to be pulled: a canonical reference, the platform, the form layers are to have."""

    reference: Reference
    platform: Platform
    form: Form

    @property
    def platform_key(self) -> str:
        """The platform as part of a name: empty for the host's."""
        return platform_key(self.platform)


class Proof(enum.Enum):
    """Who has to be able to give what was here already, where policy asks: nobody, because the image is
    known and its source was asked; the archive it comes in; the source that the reference names.
    """

    NONE = enum.auto()
    ARCHIVE = enum.auto()
    SOURCE = enum.auto()


class Puller:
    """Pulls into one store.  Belongs to one event loop."""

    def __init__(
        self,
        store: ImageStore,
        families: Families,
        admission: Admission,
        rights: Rights,
        collection: Automatic,
    ) -> None:
        self._store = store
        self._families = families
        self._admission = admission
        self._rights = rights
        self._collection = collection
        self._flights: Flights[Pulled] = Flights()

    async def pull(self, wanted: Wanted, report: Report) -> Pulled:
        """Ask the source what the reference stands for now, and have that; once however many ask.

        On a full disk room is made once, and the pull goes on where it stopped.
        """
        return await self._flights.join(
            wanted, lambda: self._with_room(lambda lease: self._brought(wanted, report, lease))
        )

    async def restore(
        self, reference: Reference | None, image: ImageRecord, form: Form, report: Report, *, offline: bool
    ) -> None:
        """Bring back what is missing of an image that is known: from its blobs, else from where it came.

        ``reference`` is what it was named by, None for its digest; ``offline`` asks nobody.
        """
        await in_thread(self._admission.before_start, reference, image)
        missing = self._store.missing(image, form)
        if all(self._store.blobs.has(Digest.parse(digest)) for digest in missing):
            found = await in_thread(found_here, self._store, image)
        elif offline:
            raise NotFound(
                f"layers of image {image.digest} are not on this host",
                hint="pull it again, without --pull never",
            )
        else:
            found = await found_again(self._store, self._families, image, report)
        wanted = Wanted(reference or _NAMELESS, recorded(image.platform), form)
        await self._with_room(lambda lease: self._bring_in(wanted, found, report, Proof.NONE, lease))

    async def keep(self, found: Found, form: Form, report: Report) -> ImageRecord:
        """Bring in what an archive has, under the names it gives."""
        wanted = Wanted(found.names[0] if found.names else _NAMELESS, found.config.meant_for, form)
        return await self._with_room(lambda lease: self._keep(wanted, found, report, lease))

    async def _keep(self, wanted: Wanted, found: Found, report: Report, lease: Pulling) -> ImageRecord:
        await self._admission.before_fetch(wanted.reference, found)
        image = await self._bring_in(wanted, found, report, Proof.ARCHIVE, lease)
        top = str(found.top.digest)
        index = top if top != image.digest else None
        for name in found.names:
            ref = RefRecord(
                reference=str(name), digest=image.digest, platform=wanted.platform_key, index=index
            )
            await in_thread(self._store.catalogue.name, ref)
        return image

    async def _brought(self, wanted: Wanted, report: Report, lease: Pulling) -> Pulled:
        subject = wanted.reference.familiar
        report(Progress(Phase.RESOLVE, subject))
        known = await in_thread(self._named, wanted)
        found = await self._ask(wanted, known, report)
        report(Progress(Phase.RESOLVE, subject, already=found is None, finished=True))
        if found is None and known is not None:
            return await in_thread(self._confirmed, known)
        if found is None:
            raise Corrupt(f"{subject}: the source says that nothing changed, but nothing was known")
        if isinstance(found, Outline) and known is not None:
            found = await recognised(found, known.image) or found
        if known is not None and found.etag is None and known.ref.top == str(found.top.digest):
            return await in_thread(self._confirmed, known)
        await self._admission.before_fetch(wanted.reference, found)
        image = await self._bring_in(wanted, found, report, Proof.SOURCE, lease)
        ref = RefRecord(
            reference=str(wanted.reference),
            digest=image.digest,
            platform=wanted.platform_key,
            etag=found.etag,
            checked_at=time.time(),
            top=str(found.top.digest),
        )
        await in_thread(self._store.catalogue.name, ref)
        trace.point("pull.named")
        return Pulled(image, ref)

    def _named(self, wanted: Wanted) -> Pulled | None:
        """What the name points at, when all of that is there and policy admits it: what it does not is had as
        if it were new, so that its signatures are looked for.
        """
        ref = self._store.catalogue.ref(str(wanted.reference), wanted.platform_key)
        image = self._store.catalogue.image(ref.digest) if ref else None
        if ref is None or image is None or not self._store.complete(image, wanted.form):
            return None
        try:
            self._admission.before_start(wanted.reference, image)
        except Denied:
            return None
        return Pulled(image, ref)

    async def _ask(self, wanted: Wanted, known: Pulled | None, report: Report) -> Found | Outline | None:
        await self._admission.before_asking(wanted.reference)
        etag = known.ref.etag if known else None
        store = self._families.store(wanted.reference)
        found = await store.discover(wanted.reference, wanted.platform, etag=etag, report=report)
        if wanted.reference.is_foreign and found is not None:  # ours check it where they resolve
            require_pinned(
                wanted.reference, found.documents if isinstance(found, Found) else (found.document,)
            )
        return found

    def _confirmed(self, known: Pulled) -> Pulled:
        ref = msgspec.structs.replace(known.ref, checked_at=time.time())
        self._store.catalogue.name(ref)
        return Pulled(known.image, ref)

    async def _bring_in(
        self, wanted: Wanted, source: Found | Outline, report: Report, proof: Proof, lease: Pulling
    ) -> ImageRecord:
        """Have an image that policy admits; an outline is judged once more when it is filled in."""
        hearsay = Hearsay(report)
        found = await self._filled_in(wanted, source, lease, hearsay)
        image = record_of(found.manifest, found.config, found.source, time.time(), found.origin)
        documents = [document.descriptor.digest for document in found.documents]
        blobs = [layer.digest for layer in found.manifest.layers]
        await in_thread(lease.need, [*documents, *blobs], [*image.stored, image.chain_id])
        trace.point("pull.leased")
        for document in found.documents:
            await in_thread(self._store.blobs.put, document.data, document.descriptor.digest)
        trace.point("pull.documents")
        await self._layers(wanted, found, hearsay)
        if proof is not Proof.NONE:
            asked = proof is Proof.SOURCE
            await self._rights.prove(wanted.reference, found, wanted.form, hearsay.blobs, asked=asked)
        trace.point("pull.layers")
        image = await in_thread(self._store.settle_looks, image, wanted.form)
        if wanted.form is Form.EROFS:
            await in_thread(self._store.merges.have, image)
        trace.point("pull.settled")
        await in_thread(self._store.catalogue.add, image)
        trace.point("pull.recorded")
        return image

    async def _filled_in(
        self, wanted: Wanted, source: Found | Outline, lease: Pulling, report: Report
    ) -> Found:
        """What was found, once it is known what it is; policy is asked again, with all there is to see."""
        if isinstance(source, Found):
            return source
        await in_thread(
            lease.need, [*(one.descriptor.digest for one in source.documents), *source.layers], []
        )
        trace.point("pull.outlined")
        found = await filled_in(source, self._store.blobs, report)
        trace.point("pull.measured")
        await self._admission.before_fetch(wanted.reference, found)
        return found

    async def _layers(self, wanted: Wanted, found: Found, report: Report) -> None:
        """Bring in every layer, each once; the first failure ends the others, and names the image."""
        layers = dict(zip(found.config.diff_ids, found.manifest.layers, strict=True))
        whose = found.source if wanted.reference == _NAMELESS else wanted.reference.familiar

        async def bring(diff_id: Digest) -> None:
            try:
                await self._store.layers.ingest(
                    layers[diff_id], diff_id, wanted.form, found.fetch, report=report
                )
            except Corrupt as error:
                error.require_name(whose)
                raise

        await side_by_side(bring, layers, most=PARALLEL)

    async def _with_room(self, work: Callable[[Pulling], Awaitable[_Result]]) -> _Result:
        """Do it under one lease, from asking to the name: nothing found on the way goes before it is named.

        On a full disk, and not at another bound, room is made once; what has come is held meanwhile.
        """
        with self._store.leases.pulling() as lease:
            try:
                with store_faults(self._store.root):
                    result = await work(lease)
            except Exhausted as error:
                if not is_full(error) or not await self._collection.make_room():
                    raise
                with store_faults(self._store.root):
                    result = await work(lease)
        self._collection.begin()
        return result
