"""The images on this host: having them, looking at them, naming, removing, checking, bringing in and out.

A `Provisioner` is a library that also makes roots for containers of what it has.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from mesocosm.errors import InvalidConfig, MesocosmError
from mesocosm.images import automatic
from mesocosm.images.attaching import attach_pulled
from mesocosm.images.automatic import Automatic
from mesocosm.images.backends.base import Backend
from mesocosm.images.backends.choice import BackendChoice
from mesocosm.images.collect import Collector, Limits, Plan
from mesocosm.images.digest import hex_of
from mesocosm.images.families import Families
from mesocosm.images.having import Having
from mesocosm.images.image import Image, ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.inspection import Inspection, Step, Usage
from mesocosm.images.layers.mounts import LayerMounts
from mesocosm.images.naming import Named, Naming, canonical, new_name
from mesocosm.images.outgoing import Outgoing
from mesocosm.images.platform import Platform, host_platform, parse_platform
from mesocosm.images.platforms import ALL
from mesocosm.images.progress import Report
from mesocosm.images.pull import Puller
from mesocosm.images.remote import Remote
from mesocosm.images.removal import Removal, pin_owner, remove_each
from mesocosm.images.supply import have_blobs, have_documents, keep_blobs
from mesocosm.images.tagging import tag
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust.admission import Admission
from mesocosm.images.trust.rights import Rights
from mesocosm.images.verification import Verdict, Verification
from mesocosm.paths import Paths

if TYPE_CHECKING:
    from mesocosm.images.comparison import Change
    from mesocosm.images.compress import Written
    from mesocosm.images.description import Description
    from mesocosm.images.scrub import Scrubbed
    from mesocosm.images.spool import Source
    from mesocosm.images.stores.base import Found

ArchiveForm = Literal["oci-archive", "docker-archive"]


class Library:
    """Images on this host; belongs to one event loop.

    Any number of processes may use one store at once.  Methods raise MesocosmError only.
    """

    def __init__(
        self,
        paths: Paths,
        store: ImageStore,
        families: Families,
        report: Report,
        policy: Path,
        settings: Path = automatic.PATH,
    ) -> None:
        self.store = store
        self.mounts = LayerMounts(paths.layers)
        self._paths = paths
        self._families = families
        self._report = report
        self._backends = BackendChoice(paths, self.mounts)
        self._naming = Naming(store.catalogue)
        self._admission = Admission(policy, store, families)
        self._rights = Rights(policy, store, families)
        self.automatic = Automatic(store, settings, self._trim, report)
        self._puller = Puller(store, families, self._admission.before_fetch, self._rights, self.automatic)
        self._having = Having(store, self._rights, self._puller)
        self._outgoing = Outgoing(store, families, self._naming, self._rights)
        self._collector = Collector(store)
        self._inspection = Inspection(store, lambda: self._backends.likely(None).form, self.mounts.mounted)

    @property
    def remote(self) -> Remote:
        """What registries have, whether it is on this host or not."""
        return Remote(self._families)

    # --- images ---------------------------------------------------------------------------------------------

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

    async def images(self, filters: Sequence[str] = ()) -> list[Image]:
        """Return the images on this host, the latest pulled first; all, or those that selection.py admits.

        With filters on names an image shows only those names that are meant.
        """
        found: list[Image] = await in_thread(self._inspection.images)
        if not filters:
            return found
        from mesocosm.images.selection import select

        chosen: list[Image] = await in_thread(select, found, filters, self._find)
        return chosen

    def _find(self, text: str) -> Image:
        return self._inspection.image(self._naming.require(text, host_platform()).require_image())

    async def inspect(self, text: str, *, platform: str | None = None) -> Image:
        """Return one image, by name or by the beginning of its digest.  Raises NotFound."""
        return await in_thread(self._inspection.image, await self._here(text, platform))

    async def documents(self, text: str, *, platform: str | None = None) -> tuple[bytes, bytes]:
        """Return the exact bytes of an image's manifest and of its configuration."""
        return await in_thread(self._inspection.documents, await self._here(text, platform))

    async def describe(self, text: str, *, platform: str | None = None) -> Description:
        """Return everything known of an image, with its documents."""
        from mesocosm.images.description import describe

        return describe(
            await self.inspect(text, platform=platform), *await self.documents(text, platform=platform)
        )

    async def history(self, text: str, *, platform: str | None = None) -> list[Step]:
        """Return how an image was made, the latest step first."""
        return await in_thread(self._inspection.history, await self._here(text, platform))

    async def usage(self) -> Usage:
        """Return what images take on disk, layer by layer, and who has them."""
        return await in_thread(self._inspection.usage)

    async def tag(self, text: str, name: str, *, platform: str | None = None) -> Image:
        """Give an image one more name, or move the name to it, for its platform: ``HOST/NAME:TAG``; "all": on
        every platform that is here.
        """
        reference = new_name(name)
        chosen = await self._outgoing.meant(text, platform)
        images = [await in_thread(tag, self.store, named, reference) for named in chosen]
        image = images[0]
        return await in_thread(self._inspection.image, image)

    async def remove(self, text: str, *, force: bool = False, platform: str | None = None) -> Removal:
        """Remove a name, and with the last one the image; Busy while a container holds it."""
        chosen = await self._outgoing.meant(text, platform)
        return await in_thread(lambda: remove_each(self.store, chosen, force=force))

    async def prune(self, limits: Limits | None = None, *, dry_run: bool = False) -> Plan:
        """Remove images without a name, and with ``limits`` those unused for longest; what is held stays.

        ``dry_run`` only says what would go.
        """
        await in_thread(self._trim)
        act = self._collector.plan if dry_run else self._collector.collect
        return await in_thread(act, limits)

    async def pin(self, text: str) -> Image:
        """Keep an image from being collected or removed."""
        image = await self._here(text, None)
        leases = self.store.leases
        await in_thread(leases.extend, pin_owner(image), image.documents, image.stored)
        return await in_thread(self._inspection.image, image)

    async def unpin(self, text: str) -> Image:
        """Undo `pin`; idempotent."""
        image = await self._here(text, None)
        await in_thread(self.store.leases.drop, pin_owner(image))
        return await in_thread(self._inspection.image, image)

    async def verify(self, text: str, *, repair: bool = False, platform: str | None = None) -> Verdict:
        """Read an image again and compare every byte.  ``repair``: see there."""
        image = await self._here(text, platform)
        chosen: Backend = await in_thread(self._backends.get, None)
        verdict: Verdict = await in_thread(Verification(self.store).image, image, chosen.form)
        if repair and not verdict.sound:
            await self.repair(text, verdict, platform=platform)
        return verdict

    async def repair(self, text: str, verdict: Verdict, *, platform: str | None = None) -> None:
        """Take what is damaged out of the store, and bring it back from what is kept or from its source."""
        wanted = platform_of(platform)
        named = await in_thread(self._naming.require, text, wanted)
        image, chosen = named.require_image(), await in_thread(self._backends.get, None)
        await in_thread(self.mounts.drop, await in_thread(Verification(self.store).discard, verdict))
        await have_documents(self.store, self._families, image)
        gone = self.store.missing(image, chosen.form) | set(verdict.damaged)
        if any(layer.digest in gone for layer in image.layers):
            await have_blobs(self.store, self._families, image, self._report)
        await self._having.restore(named.reference, image, wanted, chosen, self._report)

    async def scrub(
        self, *, rate: int | None = None, seconds: float | None = None, repair: bool = True
    ) -> Scrubbed:
        """Read the next part of the store again, at idle priority, and bring back what is damaged.

        At most ``rate`` bytes a second, for at most ``seconds``; goes on where the last one ended (scrub.py).
        """
        from mesocosm.images.scrubbing import scrub

        return await scrub(self, rate, seconds, repair=repair)

    async def compare(self, old: str, new: str, *, platform: str | None = None) -> list[Change]:
        """Return what the files of ``new`` are that are not those of ``old``, by path."""
        from mesocosm.images.comparison import differences

        pair = [await self._here(text, platform) for text in (old, new)]
        chosen: Backend = await in_thread(self._backends.get, None)
        changes: list[Change] = await in_thread(differences, self.store, *pair, chosen.form)
        return changes

    # --- in and out -----------------------------------------------------------------------------------------

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
            reference, listed = await self._outgoing.listed(text, platform, report, referrers=referrers)
            exports.append(Export(listed, names_for([reference] if reference else [])))
        if form == "docker-archive":
            from mesocosm.images.export_docker import save_docker

            await in_thread(save_docker, self.store, exports, target)
        else:
            await in_thread(save, self.store.blobs, exports, target)

    async def load(
        self, source: Source, *, platform: str | None = None, progress: Report | None = None
    ) -> list[Image]:
        """Read every image of an archive, and give them the names it has for them.

        ``source`` is the path of a file, or an open descriptor: a pipe, say; compressed or not.
        """
        from mesocosm.images.loading import load

        report = progress or self._report
        chosen: Backend = await in_thread(self._backends.get, None)
        wanted = None if platform == ALL else platform_of(platform)

        async def keep(found: Found) -> ImageRecord:
            return await self._puller.keep(found, chosen.form, report)

        loaded = await load(self.store, self._families, source, wanted, keep, report)
        return [await in_thread(self._inspection.image, image) for image in loaded]

    async def import_tarball(
        self,
        source: Source,
        name: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str | None = None,
        progress: Report | None = None,
    ) -> Image:
        """Make an image of a tar file, compressed or not, and name it.

        ``changes`` say what its process is, as in a Dockerfile (see changes.py).
        """
        from mesocosm.images.changes import runtime_of
        from mesocosm.images.spool import arrived
        from mesocosm.images.tarball_image import image_of

        names = (new_name(name),) if name else ()
        runtime, wanted = runtime_of(changes), platform_of(platform)
        chosen: Backend = await in_thread(self._backends.get, None)
        async with arrived(self.store, source, plain=False) as path:
            found = await in_thread(image_of, path, wanted, runtime, message, time.time())
            found = msgspec.structs.replace(found, names=names)
            image = await self._puller.keep(found, chosen.form, progress or self._report)
            await keep_blobs(self.store, found, progress or self._report)
        return await in_thread(self._inspection.image, image)

    async def convert(
        self,
        text: str,
        name: str | None,
        compression: Written,
        *,
        platform: str | None = None,
        progress: Report | None = None,
    ) -> Image:
        """Make an image whose layers are compressed otherwise, and name it; the diff IDs stay."""
        from mesocosm.images.convert import convert

        target = new_name(name) if name else None
        report = progress or self._report
        named: Named = await in_thread(self._naming.require, text, platform_of(platform))
        image = await self._outgoing.with_blobs(named, report)
        made = await convert(self.store, image, compression, report, target, named.platform_key)
        return await in_thread(self._inspection.image, made)

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

    def _trim(self) -> None:
        with contextlib.suppress(MesocosmError, OSError):  # whoever comes next tries again
            self.mounts.trim(lambda: frozenset(map(hex_of, self.store.leases.needed().layers)))

    async def _here(self, text: str, platform: str | None) -> ImageRecord:
        named: Named = await in_thread(self._naming.require, text, platform_of(platform))
        return named.require_image()


def platform_of(text: str | None) -> Platform:
    """Return the platform that was asked for, the host's own where none was."""
    return parse_platform(text) if text else host_platform()
