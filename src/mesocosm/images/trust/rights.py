"""Whether whoever asks is given an image by its source, too, and not only by this host's cache (attack G-11).

Layers are kept once however they came here, so without this a private image that one pulled is there for
all.  Where policy says ``recheck``:

- an image that is here is used only after its source gave its manifest to the credentials at hand;
- a pull counts what it did not receive from its source itself (layers and configurations that were here, for
  whatever image) only when the source can give them as well: they are fetched, compared, and thrown away.
  What an image of the same repository brought needs no such proof: registries give rights by repository.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from mesocosm.errors import Denied, NotFound, Unavailable
from mesocosm.images.again import again
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.families import Families
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.store import Form, LayerStore
from mesocosm.images.naming import canonical, is_local
from mesocosm.images.progress import Phase, Progress, Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.staging import staged
from mesocosm.images.transfer import Discard, in_thread
from mesocosm.images.trust import policy

if TYPE_CHECKING:
    from mesocosm.images.stores.base import Found


class Hearsay:
    """Passes a pull's reports on, and notes the blobs that its source did not give, or not from the first
    byte on.  What it gave may be read once more from the store; that is no news to anybody.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self.blobs: set[str] = set()
        self._given: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        """Take one report."""
        if progress.phase is Phase.DOWNLOAD and progress.subject in self._given:
            return
        if progress.phase is Phase.DOWNLOAD and (progress.already or progress.resumed):
            self.blobs.add(progress.subject)
        elif progress.phase is Phase.DOWNLOAD and progress.finished:
            self._given.add(progress.subject)
        self._report(progress)


class Rights:
    """Asks the sources of one store's images, with the credentials that its families have."""

    def __init__(self, path: Path, store: ImageStore, families: Families) -> None:
        self._path = path
        self._store = store
        self._families = families

    def wanted(self, reference: Reference | None, image: ImageRecord) -> bool:
        """Whether policy wants a source asked before the image is used; blocking."""
        return bool(self._to_ask(policy.load(self._path), reference, image))

    async def require(self, reference: Reference | None, image: ImageRecord) -> None:
        """Raise Denied unless policy asks for nothing, or a source gives the image to who asks.

        ``reference`` None: the image was named by its digest, and any of its sources will do.  Raises
        Unavailable when the only ones that could tell do not answer.
        """
        rules: policy.Policy = await in_thread(policy.load, self._path)
        sources: list[Reference] = await in_thread(self._to_ask, rules, reference, image)
        silent_one: Unavailable | None = None
        for source in sources:
            try:
                if await self._gives(source, image):
                    return
            except Unavailable as error:
                silent_one = error
        if silent_one is not None:
            raise Unavailable(
                f"{sources[0]} may not be used unasked, and its source does not answer: {silent_one.message}",
                hint=f"policy {self._path} asks for it (recheck)",
            )
        if sources:
            raise Denied(
                f"{sources[0]} is on this host, but its source does not give it to these credentials",
                hint=f"mesocosm login {sources[0].registry}; policy {self._path} asks for it (recheck)",
            )

    async def prove(
        self, reference: Reference, found: Found, form: Form, hearsay: Collection[str], *, asked: bool
    ) -> None:
        """Raise unless the source can give the configuration, and the layers of which blobs ``hearsay`` has.

        ``asked``: the reference's own registry gave the manifest; False for archives.  Does nothing where
        policy does not want it.  What the source raises when it cannot give something is raised.
        """
        rules: policy.Policy = await in_thread(policy.load, self._path)
        if not rules.decide(reference).recheck:
            return
        known: frozenset[str] = await in_thread(self._of_repository, reference) if asked else frozenset()
        pairs = zip(found.manifest.layers, found.config.diff_ids, strict=True)
        layers = {
            diff_id: layer
            for layer, diff_id in pairs
            if str(layer.digest) in hearsay and str(diff_id) not in known
        }
        config = () if str(found.config.digest) in known else (found.manifest.config,)
        with staged(self._store.root / "ingest", "proof-") as place:
            await self._receive(place, found, form, layers, config)

    async def _receive(
        self,
        place: Path,
        found: Found,
        form: Form,
        layers: dict[Digest, Descriptor],
        documents: tuple[Descriptor, ...],
    ) -> None:
        """Have these from the source, in an empty store of their own."""
        blobs = BlobStore.open(place)
        apart = LayerStore(place, blobs)
        apart.prepare()
        for document in documents:
            await found.fetch(blobs, document, sink=Discard, report=silent, keep=False)
        for diff_id, layer in layers.items():
            await apart.ingest(layer, diff_id, form, found.fetch, keep=False)
            await in_thread(apart.condemn, diff_id, form)
            await in_thread(apart.empty_trash)

    async def _gives(self, source: Reference, image: ImageRecord) -> bool:
        try:
            return await again(self._families, source, image) is not None
        except (Denied, NotFound):
            return False

    def _to_ask(
        self, rules: policy.Policy, reference: Reference | None, image: ImageRecord
    ) -> list[Reference]:
        """The sources one of which has to give the image; none where it may be used unasked."""
        if not rules.rechecks:
            return []
        names = [
            canonical(ref.reference)
            for ref in self._store.catalogue.refs()
            if ref.digest == image.digest and ref.top is not None
        ]
        if reference is not None and (reference in names or not names):
            names = [reference]
        asked = [name for name in names if not is_local(name) and rules.decide(name).recheck]
        return asked if len(asked) == len(names) else []

    def _of_repository(self, reference: Reference) -> frozenset[str]:
        """Diff IDs and configurations of the images pulled from the same repository."""
        if reference.transport != "docker":
            return frozenset()
        catalogue = self._store.catalogue
        names = [(canonical(ref.reference), ref) for ref in catalogue.refs() if ref.top]
        images = [
            catalogue.image(ref.digest)
            for name, ref in names
            if (name.registry, name.repository) == (reference.registry, reference.repository)
        ]
        return frozenset(
            text
            for image in images
            if image is not None
            for text in (image.image_id, *map(str, image.diff_ids))
        )
