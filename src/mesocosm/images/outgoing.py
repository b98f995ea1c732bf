"""What goes out of this host under a name: images that may be used, whole, with what belongs to them."""

from __future__ import annotations

from collections.abc import Iterable

from mesocosm.errors import MesocosmError
from mesocosm.images.attaching import attach
from mesocosm.images.digest import Digest
from mesocosm.images.families import Families
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.naming import Named, Naming
from mesocosm.images.platform import host_platform, platform_of
from mesocosm.images.platforms import ALL, Listed, together
from mesocosm.images.progress import Report
from mesocosm.images.reference import Reference, parse_reference
from mesocosm.images.supply import have_blobs
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust.rights import Rights


class Outgoing:
    """Makes images ready to leave one store."""

    def __init__(self, store: ImageStore, families: Families, naming: Naming, rights: Rights) -> None:
        self._store = store
        self._families = families
        self._naming = naming
        self._rights = rights

    async def meant(self, text: str, platform: str | None) -> list[Named]:
        """What is here under a name for one platform, or for every one."""
        if platform == ALL:
            chosen: list[Named] = await in_thread(self._naming.each, text, host_platform())
            return chosen
        return [await in_thread(self._naming.require, text, platform_of(platform))]

    async def listed(
        self, text: str, platform: str | None, report: Report, *, referrers: bool
    ) -> tuple[Reference | None, Listed]:
        """What is meant, with every blob; "all": on every platform that is here, and its attestations.

        With ``referrers`` all that is attached too.  Their sources are asked for what is attached to images
        for which none was asked yet.
        """
        chosen = await self.meant(text, platform)
        images = [await self.with_blobs(named, report) for named in chosen]
        tops = {top for named in chosen if named.ref for top in (named.ref.top, named.ref.index) if top}
        found: Listed = await in_thread(together, self._store, images, tops, platform == ALL)
        if referrers:
            for subject in found.subjects:
                await self._have_attached(subject, images, report)
            found = await in_thread(found.with_attached, self._store)
        return chosen[0].reference, found

    async def with_blobs(self, named: Named, report: Report) -> ImageRecord:
        """An image that may be used, with every blob that its manifest names."""
        image = named.require_image()
        await self._rights.require(named.reference, image)
        await have_blobs(self._store, self._families, image, report)
        return image

    async def _have_attached(self, subject: Digest, images: Iterable[ImageRecord], report: Report) -> None:
        if await in_thread(self._store.attachments.asked, subject):
            return
        failure: MesocosmError | None = None
        for source in await in_thread(self._sources, subject, {image.digest for image in images}):
            shelf = await self._families.store(source).shelf(source)
            if shelf is None:
                continue
            try:
                await attach(self._store, shelf, [subject], report)
            except MesocosmError as error:
                failure = error
            else:
                return
        if failure is not None:
            raise failure

    def _sources(self, subject: Digest, held: set[str]) -> list[Reference]:
        """The names by which the subject, or an image in it, came here from elsewhere."""
        return [
            parse_reference(ref.reference)
            for ref in self._store.catalogue.refs()
            if ref.top is not None and (ref.top == str(subject) or ref.digest in held)
        ]
