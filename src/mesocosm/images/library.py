"""The images on this host: having them (exchange.py, making.py), looking at them, naming, removing, checking.

A `Provisioner` is a library that also makes roots for containers of what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mesocosm.images.backends.base import Backend
from mesocosm.images.collect import Limits, Plan
from mesocosm.images.exchange import Exchange
from mesocosm.images.image import Image
from mesocosm.images.inspection import Step, Usage
from mesocosm.images.making import Making
from mesocosm.images.naming import Named, new_name
from mesocosm.images.platform import host_platform, platform_of
from mesocosm.images.removal import Removal, pin_owner, remove_each
from mesocosm.images.supply import have_blobs, have_documents
from mesocosm.images.tagging import tag
from mesocosm.images.transfer import in_thread
from mesocosm.images.verification import Verdict, Verification

if TYPE_CHECKING:
    from mesocosm.images.comparison import Change
    from mesocosm.images.description import Description
    from mesocosm.images.scrub import Scrubbed


class Library(Exchange, Making):
    """Images on this host; belongs to one event loop.

    Any number of processes may use one store at once.  Methods raise MesocosmError only.
    """

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

    async def prune_by_settings(self, *, dry_run: bool = False) -> Plan:
        """Remove what the host's settings give up (automatic.py), after a collection that is under way.

        ``dry_run`` only says what would go.  Raises InvalidConfig for settings that make no sense.
        """
        if dry_run:
            return await in_thread(self.automatic.plan)
        return await in_thread(lambda: self.automatic.collect(wait=True))

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
        """Take what is damaged out of the store, and bring it back from what is kept or from its source.

        Busy for a directory tree that containers run from: what is in it stays as it is until they end.
        """
        named: Named = await in_thread(self._naming.require, text, platform_of(platform))
        image, chosen = named.require_image(), await in_thread(self._backends.get, None)
        await in_thread(self.mounts.drop, await in_thread(Verification(self.store).discard, verdict))
        await have_documents(self.store, self._families, image)
        gone = self.store.missing(image, chosen.form) | set(verdict.damaged)
        if any(layer.digest in gone for layer in image.layers):
            await have_blobs(self.store, self._families, image, self._report)
        await self._puller.restore(named.reference, image, chosen.form, self._report, offline=False)
        await in_thread(Verification(self.store).require_free, verdict)

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
