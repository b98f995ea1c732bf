"""What every store must hold to, as tests: shipped, so that yours can be held to it too.

Subclass it in a module that pytest collects:

    from mesocosm.images.conformance import StoreConformance

    class TestGolden(StoreConformance):
        store = GoldenStore

        def reference(self) -> str:
            shutil.copy("root.tar", SHELF / "web.tar")
            return "golden://web"

``absent`` names what is not there, ``change`` makes the source give another image.  For families of layers:
what a store fetches is brought into a blob store of the test's own, as a pull does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar, TypeVar

from mesocosm.errors import NotFound
from mesocosm.images.blobs import BlobStore
from mesocosm.images.conformance.facts import descriptors, hold
from mesocosm.images.decompress import Decompressor
from mesocosm.images.digest import verify
from mesocosm.images.documents import Descriptor
from mesocosm.images.image_store import ImageStore
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.platform import Platform, host_platform
from mesocosm.images.progress import Progress, Report, silent
from mesocosm.images.reference import parse_reference
from mesocosm.images.stores.base import Found, Store, StoreContext
from mesocosm.images.transfer import Discard
from mesocosm.paths import Paths

_Result = TypeVar("_Result")


class StoreConformance:
    """The suite.  ``store`` and ``reference`` must be given, the rest may be."""

    store: ClassVar[type[Store]]

    folder: Path
    """A directory of the test's own, gone afterwards."""

    blobs: BlobStore

    def setup_method(self) -> None:
        """An image store of the test's own, with nothing in it."""
        self.folder = Path(tempfile.mkdtemp(prefix="mesocosm-conformance-"))
        self._paths = Paths(self.folder / "root", self.folder / "run")
        self._paths.root.mkdir()
        self.blobs = ImageStore.open(self._paths.images).blobs

    def teardown_method(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder)

    # ── for subclasses ──────────────────────────────────────────────────────────────────────────────────

    def reference(self) -> str:
        """Have an image at the source, and return what users write for it."""
        raise NotImplementedError("say what image there is")

    def absent(self) -> str | None:
        """What users write for an image that is not there; None where there is no such thing."""
        return None

    def change(self) -> bool:
        """Make the source give another image for the reference; whether it can."""
        return False

    def platform(self) -> Platform:
        """What the image is asked for."""
        return host_platform()

    # ── what is told ────────────────────────────────────────────────────────────────────────────────────

    def test_it_serves_what_its_users_write(self) -> None:
        """The word before the colon is one of its transports."""
        transport = parse_reference(self.reference()).transport
        hold(transport in self.store.transports, f"{self.store.__name__} does not serve {transport}")
        hold(self.store.layered, "the suite is for families of layers")

    def test_an_image_is_described_by_its_documents(self) -> None:
        """Each is what its descriptor says; manifest and configuration are among them and agree."""
        found = self.found(self.reference())
        for document in found.documents:
            descriptor = document.descriptor
            verify(document.data, descriptor.digest)
            hold(len(document.data) == descriptor.size, f"{descriptor.digest} has another size")
        digests = [document.descriptor.digest for document in found.documents]
        hold(found.manifest.digest in digests, "the manifest is not among the documents")
        hold(digests[-1] == found.config.digest, "the last document is not the configuration")
        hold(found.manifest.config.digest == found.config.digest, "the manifest has another configuration")
        layers, diff_ids = found.manifest.layers, found.config.diff_ids
        hold(len(layers) == len(diff_ids), f"{len(layers)} layers, {len(diff_ids)} diff IDs")
        hold(found.config.platform == self.platform(), f"the image is for {found.config.platform}")
        hold(bool(found.source) and "\n" not in found.source, "it does not say where from, in one line")

    def test_asked_again_it_says_the_same(self) -> None:
        """Also by another instance: there is nothing random in it, and no time of asking."""
        reference = self.reference()
        first, second = self.found(reference), self.found(reference)
        hold(first.documents == second.documents, "the second time other documents came")

    def test_what_has_not_changed_costs_nothing(self) -> None:
        """Where answers have an ETag: asked with it, also by another instance, None is the answer."""
        reference = self.reference()
        etag = self.found(reference).etag
        if etag is not None:
            again = self._with(lambda store: self._ask(store, reference, etag))
            hold(again is None, "the same was described again")

    def test_a_change_is_noticed(self) -> None:
        """Whether an ETag is given along or not."""
        reference = self.reference()
        before = self.found(reference)
        if not self.change():
            return
        after = self._with(lambda store: self._ask(store, reference, before.etag))
        hold(isinstance(after, Found), "with the old ETag nothing has changed")
        hold(self.found(reference).top != before.top, "the new image is the old one")

    def test_what_is_not_there_is_not_found_in_one_line(self) -> None:
        """As NotFound, which names it: a pull may fall back to what is here."""
        absent = self.absent()
        if absent is None:
            return
        try:
            self.found(absent)
        except NotFound as error:
            hold("\n" not in str(error), f"{error!s:.200} is not one line")
            named = parse_reference(absent).path.rpartition("/")[2]
            hold(named in str(error), f"{error!s:.200} does not name {named}")
        else:
            raise AssertionError(f"{absent} was found")

    # ── what is fetched ─────────────────────────────────────────────────────────────────────────────────

    def test_layers_are_what_the_documents_say(self) -> None:
        """Digest and size are checked by who takes them in; here the diff IDs are, too."""
        found = self.fetched(self.reference())
        for layer, diff_id in zip(found.manifest.layers, found.config.diff_ids, strict=True):
            plain, running = Decompressor(None, DEFAULT_LIMITS), hashlib.new(diff_id.algorithm)
            for chunk in self.blobs.chunks(layer.digest, layer.size):
                for piece in plain.feed(chunk):
                    running.update(piece)
            for piece in plain.finish():
                running.update(piece)
            hold(running.hexdigest() == diff_id.hex, f"layer {layer.digest} has another diff ID")

    def test_a_layer_goes_on_where_it_stopped(self) -> None:
        """What an interrupted pull left is not brought again, and the rest fits."""
        reference = self.reference()
        half = {}
        for layer in self.fetched(reference).manifest.layers:
            whole = b"".join(bytes(chunk) for chunk in self.blobs.chunks(layer.digest))
            self.blobs.delete(layer.digest)
            ingest = self.blobs.begin(layer.digest, layer.size)
            if ingest is None:
                raise AssertionError(f"somebody still holds {layer.digest}")
            half[str(layer.digest)] = len(whole) // 2
            with ingest:
                ingest.write(whole[: len(whole) // 2])
        told: list[Progress] = []
        self.fetched(reference, told.append)
        resumed = {one.subject: one.resumed for one in told if one.finished and one.subject in half}
        hold(resumed == half, f"of {half} bytes that were there {resumed} were kept")

    def test_nothing_is_left_open_and_nothing_unfinished(self) -> None:
        """Neither by an answer, nor by a layer that is not wanted any more, nor by what was not there."""
        reference, absent = self.reference(), self.absent()
        self.found(reference)  # what is loaded once, as a library's own files, is not counted
        before = descriptors()
        self.fetched(reference)
        if absent is not None:
            with contextlib.suppress(NotFound):
                self.found(absent)
        self._with(lambda store: self._give_up(store, reference))
        hold(descriptors() == before, f"left open: {descriptors() - before}")
        self.blobs.sweep()
        left = [path.name for path in (self._paths.images / "ingest").iterdir()]
        hold(not left, f"left unfinished: {left}")

    # ── what the tests are made of ──────────────────────────────────────────────────────────────────────

    def found(self, reference: str) -> Found:
        """What a new instance answers."""
        found = self._with(lambda store: self._ask(store, reference, None))
        if found is None:
            raise AssertionError("without an ETag the answer is that nothing has changed")
        return found

    def fetched(self, reference: str, report: Report = silent) -> Found:
        """The same, with every layer in ``blobs``."""

        async def fetch(store: Store) -> Found:
            found = await self._ask(store, reference, None)
            if found is None:
                raise AssertionError("without an ETag the answer is that nothing has changed")
            for layer in found.manifest.layers:
                await self._bring(found, layer, report)
            return found

        return self._with(fetch)

    async def _bring(self, found: Found, layer: Descriptor, report: Report = silent) -> None:
        await found.fetch(self.blobs, layer, sink=Discard, report=report, keep=True)
        hold(self.blobs.has(layer.digest, layer.size), f"layer {layer.digest} was not brought")

    async def _give_up(self, store: Store, reference: str) -> None:
        """Begin with a layer, and be cancelled."""
        found = await self._ask(store, reference, None)
        if found is not None and found.manifest.layers:
            layer = found.manifest.layers[0]
            self.blobs.delete(layer.digest)
            task = asyncio.ensure_future(self._bring(found, layer))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    async def _ask(self, store: Store, reference: str, etag: str | None) -> Found | None:
        found = await store.discover(parse_reference(reference), self.platform(), etag=etag)
        if found is None or isinstance(found, Found):
            return found
        raise AssertionError("the suite is for images whose documents say what their layers are")

    def _with(self, act: Callable[[Store], Awaitable[_Result]]) -> _Result:
        """Do something with a new instance, and close it."""

        async def run() -> _Result:
            store = self.store(StoreContext(paths=self._paths, blobs=self.blobs))
            try:
                return await act(store)
            finally:
                await store.close()

        return asyncio.run(run())
