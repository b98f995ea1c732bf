"""Having an image on this host, as fresh as a pull policy asks for."""

from __future__ import annotations

from typing import Final

from mesocosm.errors import InvalidConfig, Unavailable
from mesocosm.images.backends.base import Backend
from mesocosm.images.image import ImageRecord, RefRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.naming import Named, is_local, missing
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report
from mesocosm.images.pull import Puller, Wanted
from mesocosm.images.reference import Reference
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust.rights import Rights

POLICIES: Final = ("always", "missing", "never", "newer")
"""When to ask the source: every time; when the image is not here; not at all; every time, but go on with what
is here when it does not answer."""


class Having:
    """Decides between what is here and what the source has."""

    def __init__(self, store: ImageStore, rights: Rights, puller: Puller) -> None:
        self._store = store
        self._rights = rights
        self._puller = puller

    async def image(
        self, named: Named, platform: Platform, backend: Backend, policy: str, report: Report
    ) -> tuple[ImageRecord, RefRecord | None]:
        """Return the image that was named, and the record of its name; all its layers are there."""
        if policy not in POLICIES:
            raise InvalidConfig(f"pull policy {policy!r} is unknown", hint=f"use {', '.join(POLICIES)}")
        if named.reference is None or not _is_asked(named, named.reference, policy):
            return await self._as_it_is(named, backend, report, offline=policy == "never")
        try:
            pulled = await self._puller.pull(Wanted(named.reference, platform, backend.form), report)
        except Unavailable:
            image = named.image
            if policy != "newer" or image is None or not await self._complete(image, backend):
                raise
            await self._rights.require(named.reference, image)
            return image, named.ref
        return pulled.image, pulled.ref

    async def _as_it_is(
        self, named: Named, backend: Backend, report: Report, *, offline: bool
    ) -> tuple[ImageRecord, RefRecord | None]:
        image = named.image
        if image is None:
            raise missing(named.reference, "")
        await self._rights.require(named.reference, image)
        if not await self._complete(image, backend):
            await self._puller.restore(named.reference, image, backend.form, report, offline=offline)
        return image, named.ref

    async def _complete(self, image: ImageRecord, backend: Backend) -> bool:
        return await in_thread(self._store.complete, image, backend.form)


def _is_asked(named: Named, reference: Reference, policy: str) -> bool:
    """Whether the source is asked: what is local costs nothing to look at."""
    if policy == "missing":
        return named.image is None or is_local(reference)
    return policy != "never"
