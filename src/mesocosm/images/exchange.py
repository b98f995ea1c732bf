"""Images that come to this host and go from it: registries, archives."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mesocosm.errors import InvalidConfig, about
from mesocosm.images.attaching import attach_pulled
from mesocosm.images.backends.base import Backend
from mesocosm.images.image import Image, ImageRecord
from mesocosm.images.naming import Named, canonical
from mesocosm.images.parts import Parts
from mesocosm.images.platform import host_platform, platform_of
from mesocosm.images.platforms import ALL
from mesocosm.images.progress import Report
from mesocosm.images.remote import Remote
from mesocosm.images.stopping import stoppable, written_to
from mesocosm.images.transfer import in_thread

if TYPE_CHECKING:
    from mesocosm.images.spool import Source
    from mesocosm.images.stores.base import Found

ArchiveForm = Literal["oci-archive", "docker-archive"]


class Exchange(Parts):
    """The part of a library that has to do with what lies elsewhere."""

    @property
    def remote(self) -> Remote:
        """What registries have, whether it is on this host or not."""
        return Remote(self._families)

    async def pull(
        self,
        reference: str,
        *,
        policy: str = "always",
        platform: str | None = None,
        backend: str | None = None,
        referrers: bool = False,
        progress: Report | None = None,
    ) -> Image:
        """Have the image on this host as fresh as ``policy`` asks for (`having.POLICIES`); with ``referrers``
        what its source has for it, too: signatures, bills of materials.
        """
        wanted = platform_of(platform)
        if reference == "none":
            raise InvalidConfig("none has nothing to pull", hint="it means that there is no image")
        named = await in_thread(self._naming.find, reference, wanted)
        if named.reference is not None and not self._families.store(named.reference).layered:
            raise InvalidConfig(f"{reference} has nothing to pull", hint="it is used as it is")
        chosen: Backend = await in_thread(self._backends.get, backend)
        report = progress or self._report
        image, _ = await self._having.image(named, wanted, chosen, policy, report)
        if referrers and named.reference is not None and policy != "never":
            await attach_pulled(self.store, self._families, named.reference, report)
        found: Image = await in_thread(self._inspection.image, image)
        return found

    async def pull_all(
        self,
        reference: str,
        *,
        policy: str = "always",
        backend: str | None = None,
        referrers: bool = False,
        progress: Report | None = None,
    ) -> list[Image]:
        """Have the image for every platform of Linux that its source has, or is here by policy ``never``, and
        their attestations.  ``referrers``: see `pull`.
        """
        if policy == "never":
            offered = await self.platforms(reference)
        else:
            named = canonical(reference)
            await self._admission.before_asking(named)
            offered = [str(one) for one in await self._families.store(named).platforms(named)]
        found = [
            await self.pull(reference, policy=policy, platform=one, backend=backend, progress=progress)
            for one in offered or [str(host_platform())]
        ]
        if policy != "never":
            report = progress or self._report
            await attach_pulled(self.store, self._families, named, report, referrers=referrers, whole=True)
        return found

    async def platforms(self, text: str) -> list[str]:
        """Return the platforms for which an image is here under a name.  Raises NotFound for none."""
        here: list[Named] = await in_thread(self._naming.each, text, host_platform())
        return [one.platform_key or str(host_platform()) for one in here]

    async def push(
        self,
        text: str,
        target: str | None = None,
        *,
        platform: str | None = None,
        referrers: bool = False,
        progress: Report | None = None,
    ) -> str:
        """Have an image in a registry, under its own name or ``target``; returns its digest there.

        ``platform`` "all" sends every platform that is here, and an index of them with their attestations;
        ``referrers`` what refers to them by what is here, or where none was asked yet by their source.
        """
        from mesocosm.images.pushing import push  # the HTTP library takes long to import

        report = progress or self._report
        reference, listed = await self._outgoing.listed(text, platform, report, referrers=referrers)
        name = canonical(target) if target else reference
        if name is None:
            raise InvalidConfig(f"{text} has no name to push it by", hint="give one: HOST/NAME:TAG")
        return str(await push(self.store, self._families, listed, name, report))

    async def save(
        self,
        texts: Sequence[str],
        target: int,
        *,
        form: ArchiveForm = "oci-archive",
        platform: str | None = None,
        referrers: bool = False,
        progress: Report | None = None,
    ) -> None:
        """Write images to an open file as one archive; ``referrers``: see `push`.

        ``oci-archive`` is an OCI layout and what today's ``docker load`` reads, both at once;
        ``docker-archive`` is what ``docker save`` wrote before it knew OCI.
        """
        from mesocosm.images.export import Export, names_for, save

        exports = []
        for text in texts:
            report = progress or self._report
            with about(text):
                reference, listed = await self._outgoing.listed(text, platform, report, referrers=referrers)
            exports.append(Export(listed, names_for([reference] if reference else [])))
        from mesocosm.images.export_docker import save_docker

        def write(stopped: threading.Event) -> None:
            with written_to(target, stopped) as put:
                if form == "docker-archive":
                    save_docker(self.store, exports, put)
                else:
                    save(self.store.blobs, exports, put)

        await stoppable(write)

    async def load(
        self, source: Source, *, platform: str | None = None, progress: Report | None = None
    ) -> list[Image]:
        """Read every image of an archive, and give them the names it has for them: those alone they show.

        ``source`` is the path of a file, or an open descriptor: a pipe, say; compressed or not.
        """
        from mesocosm.images.loading import load

        report = progress or self._report
        chosen: Backend = await in_thread(self._backends.get, None)
        wanted = None if platform == ALL else platform_of(platform)

        async def keep(found: Found) -> ImageRecord:
            return await self._puller.keep(found, chosen.form, report)

        loaded = await load(self.store, self._families, source, wanted, keep, report)
        return [await in_thread(self._inspection.image, image, names) for image, names in loaded]
