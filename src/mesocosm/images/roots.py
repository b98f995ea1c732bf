"""From an image that is here to a root: its layers, stacked for a backend, and the step that it answers."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mesocosm.errors import NotFound, Unsupported
from mesocosm.images.backends.base import Backend, StackedLayer
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.mounts import LayerMounts
from mesocosm.images.layers.store import Form
from mesocosm.images.store_faults import store_faults
from mesocosm.images.wish import Wish
from mesocosm.plan import RootStep
from mesocosm.plan.operations import OverlayRoot


class Roots:
    """Makes roots of one store's images; blocking."""

    def __init__(self, store: ImageStore, mounts: LayerMounts) -> None:
        self._store = store
        self._mounts = mounts

    def prepare(self, image: ImageRecord, backend: Backend, wish: Wish) -> RootStep:
        """Make the root of an image that is leased and whole.  Raises Unsupported."""
        with store_faults(self._store.root):
            stack = self._stacked(image, backend.form)
            if stack and stack[0].form is Form.MERGED and not self._mounts.has(stack[0].name):
                self._store.merges.have(image)
            step = backend.root(stack, wish.place, read_only=wish.fixed(image), idmap=wish.idmap)
        return _kept(step, wish)

    def preview(self, image: ImageRecord, backend: Backend, wish: Wish) -> RootStep:
        """Say what `prepare` would, without changing anything."""
        stack = self._stacked(image, backend.form)
        step = backend.preview(stack, wish.place, read_only=wish.fixed(image), idmap=wish.idmap)
        return _kept(step, wish)

    def trees(self, image: ImageRecord) -> tuple[Path, ...]:
        """The directories that hold a leased image's layers, top first.  NotFound when some have gone."""
        if not self._store.complete(image, Form.TREE):
            raise missing_layers(image)
        return tuple(one.content for one in self._stacked(image, Form.TREE))

    def _stacked(self, image: ImageRecord, form: Form) -> tuple[StackedLayer, ...]:
        """The image's layers, top first; on top of them the look of directories they do not describe.

        A merge has it all in one.
        """
        layers = self._store.layers
        merge = self._store.merges.of(image) if form is Form.EROFS else None
        if merge is not None:
            content = layers.content(merge, Form.MERGED)
            files = self._store.merges.files(image)
            return (StackedLayer(merge.hex, content, Form.MERGED, files),)
        seen = reversed(image.diff_ids[image.hidden :])
        stack = [StackedLayer(one.hex, layers.content(one, form), form) for one in seen]
        if image.looks:
            stack.insert(0, StackedLayer(image.chain_id.hex, self._store.looks(image), Form.TREE))
        return tuple(stack)


def missing_layers(image: ImageRecord) -> NotFound:
    """The error for an image that is not whole."""
    return NotFound(f"layers of image {image.digest} are not on this host", hint="pull it again")


def require_keeping(backend: Backend) -> None:
    """Raise Unsupported for a backend whose roots cannot be gone on with."""
    if not backend.keeps:
        raise Unsupported(
            f"the {backend.name} backend cannot keep changes to the root",
            hint="use --backend erofs or overlay",
        )


def _kept(step: RootStep, wish: Wish) -> RootStep:
    """What is kept has to reach the disk: overlayfs never mounts a volatile upper layer twice."""
    if wish.changes is None or not isinstance(step, OverlayRoot):
        return step
    return msgspec.structs.replace(step, volatile=False)
