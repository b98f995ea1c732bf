"""An image store of a test's own, with images by hand in it, and their roots made as for a container."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mesocosm.images import mediatypes
from mesocosm.images.backends.base import Backend, BackendContext
from mesocosm.images.conformance.facts import hold
from mesocosm.images.conformance.layers import Layer, archive
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.image import ImageRecord
from mesocosm.images.image import Layer as LayerOfImage
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.mounts import LayerMounts
from mesocosm.images.layers.store import Form
from mesocosm.images.layers.writer import LayerWriter
from mesocosm.images.roots import Roots
from mesocosm.images.staging import discard
from mesocosm.images.wish import Wish
from mesocosm.linux import mounts
from mesocosm.linux.mountinfo import mounts_below, read_mountinfo
from mesocosm.model import ImageRuntime
from mesocosm.paths import Paths
from mesocosm.plan import RootStep


class World:
    """What a backend lives in: a store with its layers, the host's mounts of them, containers' directories.

    All of it lies below ``folder``.  Belongs to one test.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = Paths(folder / "root", folder / "run")
        self.containers = folder / "containers"
        for path in (self.paths.root, self.paths.runtime, self.containers):
            path.mkdir(mode=0o700, parents=True)
        self.store = ImageStore.open(self.paths.images)
        self.mounts = LayerMounts(self.paths.layers)
        self._roots = Roots(self.store, self.mounts)

    def context(self, trial: Path | None = None) -> BackendContext:
        """What a backend is made with; only for probing there is a directory to try things in."""
        return BackendContext(mounts=self.mounts, trial=trial or self.paths.images, top=self.paths.top)

    def image(self, layers: Sequence[Layer], form: Form) -> ImageRecord:
        """Have an image of layers, lowest first, in the form that a backend needs."""
        stored = [self._stored(layer, form) for layer in layers]
        name = str(Digest.of(msgspec.json.encode([layer.diff_id for layer in stored])))
        image = ImageRecord(
            digest=name,
            media_type=mediatypes.OCI_MANIFEST,
            manifest_size=0,
            image_id=name,
            config_size=0,
            platform="linux/amd64",
            created="",
            runtime=ImageRuntime(),
            layers=tuple(stored),
            source="by hand",
            pulled_at=0,
        )
        return self.store.settle_looks(image, form)

    def scratch(self, name: str = "one") -> Path:
        """Where a container's directory for its root is, or would be."""
        return self.containers / name

    def root(self, backend: Backend, image: ImageRecord, wish: Wish) -> RootStep:
        """Have a root made, as for a container: its directory is there unless the root is read-only."""
        if not wish.fixed(image):
            wish.place.mkdir(mode=0o700, exist_ok=True)
        return self._roots.prepare(image, backend, wish)

    def preview(self, backend: Backend, image: ImageRecord, wish: Wish) -> RootStep:
        """What it would be, with nothing done."""
        return self._roots.preview(image, backend, wish)

    def end(self, scratch: Path) -> None:
        """The container's end: its directory goes, in which nothing may be mounted."""
        places = [entry.mount_point for entry in mounts_below(read_mountinfo(), str(scratch))]
        hold(not places, f"is mounted in {scratch}: {places}")
        discard(scratch)

    def trim(self) -> None:
        """The last container has ended: nobody needs a mount of a layer any more."""
        self.mounts.trim(frozenset)

    def restart(self) -> None:
        """Whoever comes next knows of mounts what the kernel tells."""
        self.mounts.close()
        self.mounts = LayerMounts(self.paths.layers)
        self._roots = Roots(self.store, self.mounts)

    def close(self) -> None:
        """Remove everything, and what was mounted by whomever."""
        self.mounts.close()
        for entry in list(mounts_below(read_mountinfo(), str(self.folder))):
            with contextlib.suppress(OSError):  # it went with the one that it was mounted on
                mounts.detach(entry.mount_point)
        discard(self.folder)

    def _stored(self, layer: Layer, form: Form) -> LayerOfImage:
        data = archive(layer)
        digest = Digest.of(data)
        if not self.store.layers.has(digest, form):
            descriptor = Descriptor(mediatypes.OCI_LAYER, digest, len(data))
            staging = self.paths.images / "ingest" / f"layer-{digest.hex}.{form}"
            writer = LayerWriter(self.store.layers, staging, descriptor, digest, form)
            writer.write(data)
            writer.finish()
        return LayerOfImage(
            diff_id=str(digest), digest=str(digest), size=len(data), media_type=mediatypes.OCI_LAYER
        )
