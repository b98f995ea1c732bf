"""Images that are made on this host: of a tar file, of another image, of what a container has changed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from mesocosm.errors import MesocosmError
from mesocosm.images.backends.base import Backend
from mesocosm.images.foreign import shown
from mesocosm.images.image import Image, ImageRecord
from mesocosm.images.naming import Named, canonical, is_whole_id, new_name
from mesocosm.images.parts import Parts
from mesocosm.images.platform import platform_of
from mesocosm.images.progress import Phase, Progress, Report
from mesocosm.images.supply import have_blobs, keep_blobs
from mesocosm.images.transfer import Discard, in_thread

if TYPE_CHECKING:
    from mesocosm.images.committing import CommitRequest, Committed, Packed
    from mesocosm.images.compress import Written
    from mesocosm.images.spool import Source, Spool


class Making(Parts):
    """The part of a library that makes new images."""

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
        from mesocosm.images.spool import arrived, name_of
        from mesocosm.images.tarball_image import image_of

        names = (new_name(name),) if name else ()
        runtime, wanted = runtime_of(changes), platform_of(platform)
        chosen: Backend = await in_thread(self._backends.get, None)
        async with arrived(self.store.blobs, source, plain=False) as path:
            found = await in_thread(image_of, path, wanted, runtime, message, time.time())
            origin = f"imported from {shown(name_of(source), 200)}"
            found = msgspec.structs.replace(found, names=names, source=origin)
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

    async def commit(
        self,
        image: ImageRecord,
        reference: str,
        request: CommitRequest,
        layer: Callable[[Spool], Awaitable[Packed]],
        *,
        backend: str | None = None,
    ) -> Committed:
        """Make an image of a leased one and the layer that ``layer`` writes into a spool.

        ``reference`` is the name that the image was asked for by.  Raises InvalidConfig before anything is
        written, Denied where policy does not admit the new name or the use of the old image.
        """
        from mesocosm.images import committing
        from mesocosm.images.spool import spooling

        draft = await in_thread(committing.drafted, self.store, image, request)
        named = None if is_whole_id(reference) else canonical(reference)
        await self._rights.require(named, image)
        with contextlib.suppress(MesocosmError):  # without them it can be used, though not sent elsewhere
            await have_blobs(self.store, self._families, image, self._report)
        chosen: Backend = await in_thread(self._backends.get, backend)
        with spooling(self.store.blobs) as spool:
            subject = f"the changes to {named.familiar if named else reference}"
            self._report(Progress(Phase.COMPRESS, subject))
            packed = await layer(spool)
            size = packed.layer.size if packed.layer else 0
            self._report(Progress(Phase.COMPRESS, subject, size, size, finished=True))
            found = committing.found_of(self.store, draft, packed, spool.path, request)
            made = await self._puller.keep(found, chosen.form, self._report)
            if packed.layer is not None and not self.store.blobs.has(packed.layer.digest):
                await found.fetch(
                    self.store.blobs, packed.layer, sink=Discard, report=self._report, keep=True
                )
        return committing.Committed(await in_thread(self._inspection.image, made), packed.left_out)
