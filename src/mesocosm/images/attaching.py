"""Bringing in what is attached to images: from where they came, into the store, within bounds."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from mesocosm.errors import Corrupt, Exhausted, NotFound, Unsupported
from mesocosm.images.attachments import Attached, Kind
from mesocosm.images.digest import Digest, verify
from mesocosm.images.documents import Descriptor, Index, Manifest, parse_document
from mesocosm.images.families import Families
from mesocosm.images.foreign import shown
from mesocosm.images.image_store import ImageStore
from mesocosm.images.platform import attested
from mesocosm.images.progress import Report
from mesocosm.images.reference import Reference
from mesocosm.images.store_faults import store_faults
from mesocosm.images.stores.base import Shelf
from mesocosm.images.strict import DOCUMENT_LIMIT
from mesocosm.images.transfer import Discard, in_thread

DEPTH: Final = 8
"""Signatures of signatures, and indexes in indexes, that are followed."""
COUNT: Final = 1000
"""Manifests attached to one."""
SIZE: Final = 4 << 30
"""Bytes attached to one."""
TAGS: Final = (".sig", ".att", ".sbom")
"""cosign's, behind ``sha256-<hex>``."""


async def attach(store: ImageStore, shelf: Shelf, subjects: Iterable[Digest], report: Report) -> None:
    """Have whatever the shelf has for these manifests and indexes: what refers to them, and cosign's tags.

    Raises Corrupt for what does not refer to what it is listed under, Exhausted beyond the bounds, and what
    the shelf raises.
    """
    for subject in dict.fromkeys(subjects):
        await _have(store, shelf, subject, (Kind.REFERRER, Kind.TAG, Kind.CHILD), report)


async def attach_pulled(
    store: ImageStore,
    families: Families,
    reference: Reference,
    report: Report,
    *,
    referrers: bool = True,
    whole: bool = False,
) -> None:
    """Have what is attached to the images that a name was pulled for: with ``whole`` the attestations that
    its index lists, with ``referrers`` all else.
    """
    refs = await in_thread(lambda: [one for one in store.catalogue.refs() if one.reference == str(reference)])
    shelf = await families.store(reference).shelf(reference) if refs else None
    if shelf is None:
        return
    held = [Digest.parse(text) for text in dict.fromkeys(ref.digest for ref in refs)]
    tops = [Digest.parse(text) for text in dict.fromkeys(ref.top for ref in refs) if text is not None]
    for top in tops:
        if whole and top not in held:
            await attach_entries(store, shelf, top, held, report)
    if referrers:
        await attach(store, shelf, [*held, *tops], report)


async def attach_entries(
    store: ImageStore, shelf: Shelf, index: Digest, held: Sequence[Digest], report: Report
) -> None:
    """Have the attestations that an index, which is in the store, lists for the images ``held``; none where
    it is what an image was made of (docker's schema 1).
    """
    data: bytes = await in_thread(lambda: store.blobs.read(index, limit=DOCUMENT_LIMIT))
    try:
        found = parse_document(data, algorithm=index.algorithm, what=f"index {index}")
    except Unsupported:
        return
    entries = found.manifests if isinstance(found, Index) else ()
    for subject in held:
        listed = tuple(one for one in entries if attested(one) == str(subject))
        if listed:
            await _have(store, shelf, subject, (Kind.ENTRY,), report, listed)


async def _have(
    store: ImageStore,
    shelf: Shelf,
    subject: Digest,
    kinds: tuple[Kind, ...],
    report: Report,
    listed: tuple[Descriptor, ...] = (),
) -> None:
    with store_faults(store.root), store.leases.pulling() as lease:
        walk = _Walk(store, shelf, subject)
        if Kind.ENTRY in kinds:
            for entry in listed:
                await walk.take(Kind.ENTRY, entry)
        else:
            await walk.follow()
        digests = [digest for one in walk.found for digest in one.digests]
        await in_thread(lease.need, digests, [])
        for document in walk.documents.values():
            await in_thread(store.blobs.put, *document)
        for one in walk.found:
            for blob in one.blobs:
                await shelf.fetch(store.blobs, blob, sink=Discard, report=report, keep=True)
        await in_thread(_record, store, subject, kinds, walk.found)


def _record(store: ImageStore, subject: Digest, kinds: tuple[Kind, ...], found: list[Attached]) -> None:
    with store.leases.frozen():
        store.attachments.put(subject, kinds, found, asked=Kind.REFERRER in kinds)


class _Walk:
    """What is attached to one manifest, looked up; ``found`` in an order in which it can be sent."""

    def __init__(self, store: ImageStore, shelf: Shelf, subject: Digest) -> None:
        self.found: list[Attached] = []
        self.documents: dict[Digest, tuple[bytes, Digest]] = {}
        self._store = store
        self._shelf = shelf
        self._subject = subject
        self._size = 0
        self._count = 0

    async def follow(self) -> None:
        """Find what refers to the subject, what refers to that, and cosign's tags."""
        left = deque([(self._subject, 0)])
        while left:
            subject, depth = left.popleft()
            for one in await self._shelf.referrers(subject):
                if one.digest not in self.documents and await self.take(Kind.REFERRER, one, subject):
                    if depth + 1 >= DEPTH:
                        raise Exhausted(f"{self._subject}: what refers to it is more than {DEPTH} deep")
                    left.append((one.digest, depth + 1))
        for suffix in TAGS:
            tag = f"{self._subject.algorithm}-{self._subject.hex}{suffix}"
            tagged = await self._shelf.tagged(tag)
            if tagged is not None:
                await self.take(Kind.TAG, tagged, tag=tag)

    async def take(
        self,
        kind: Kind,
        descriptor: Descriptor,
        subject: Digest | None = None,
        *,
        tag: str = "",
        depth: int = 0,
    ) -> bool:
        """Take one manifest, with what it lists before it; False when the shelf lists it but has it not.

        ``depth``: of how many indexes it is in.
        """
        what = f"{descriptor.digest}, attached to {self._subject}"
        if depth > DEPTH:
            raise Exhausted(f"{shown(what, 200)}: indexes lie more than {DEPTH} deep in each other")
        self._count += 1
        self._weigh(descriptor, what)
        try:
            data = await self._read(descriptor)
        except NotFound:
            return False
        document = parse_document(
            data, content_type=descriptor.media_type, algorithm=descriptor.digest.algorithm, what=what
        )
        if subject is not None and (document.subject is None or document.subject.digest != subject):
            raise Corrupt(f"{what}: it does not refer to {subject}", hint="the list it is in is wrong")
        self.documents[descriptor.digest] = (data, descriptor.digest)
        blobs: tuple[Descriptor, ...] = ()
        if isinstance(document, Manifest):
            blobs = (document.config, *document.layers)
            for blob in blobs:
                self._weigh(blob, what)
        else:
            for one in document.manifests:
                if one.digest not in self.documents:
                    await self.take(Kind.CHILD, one, depth=depth + 1)
        self.found.append(Attached(kind=kind, descriptor=descriptor, blobs=blobs, tag=tag))
        return True

    async def _read(self, descriptor: Descriptor) -> bytes:
        if descriptor.data is not None:
            return descriptor.data
        with contextlib.suppress(Corrupt, NotFound):
            return await in_thread(lambda: self._store.blobs.read(descriptor.digest, limit=descriptor.size))
        return verify(await self._shelf.read(descriptor), descriptor.digest, descriptor.size)

    def _weigh(self, one: Descriptor, what: str) -> None:
        """Raise Exhausted beyond the bounds; what is listed and not there counts too, as it is asked for."""
        self._size += one.size
        if self._size > SIZE or self._count > COUNT:
            raise Exhausted(
                f"{shown(what, 200)}: more than {COUNT} manifests or {SIZE >> 30} GiB are attached",
                hint="leave --referrers out",
            )
