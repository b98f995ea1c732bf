"""Overlay on EROFS files, each mounted once for the whole host: the default where the kernel can."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mesocosm.images.backends.base import Backend, StackedLayer
from mesocosm.images.backends.overlay import try_overlay
from mesocosm.images.layers.mounts import MountImage, mount_image
from mesocosm.images.layers.store import Form
from mesocosm.images.stacking import prepare, stack
from mesocosm.model.idmap import IDMap
from mesocosm.plan import RootStep


class ErofsBackend(Backend):
    """Layers are EROFS files; their mounts are shared, and outlive every container."""

    name = "erofs"
    keeps = True
    form = Form.EROFS

    def probe(self) -> None:
        """Write an empty image, mount it from its file, and put a writable overlay on it."""
        layer = trial_layer(self.context.trial)
        try:
            try_overlay(self.context.trial, [layer])
        finally:
            os.close(layer)

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """As `Backend.root`: mounts what is not mounted yet."""
        images = {
            layer.name: (layer.content, *layer.devices) for layer in layers if layer.form is not Form.TREE
        }
        self.context.mounts.hold(images)
        step = self.preview(layers, scratch, read_only=read_only, idmap=idmap)
        return prepare(step, scratch, self.context.top, idmap)

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """As `Backend.preview`."""
        directories = [str(self._where(layer)) for layer in layers]
        return stack(directories, scratch, self.context.top if read_only else None, idmap)

    def _where(self, layer: StackedLayer) -> Path:
        return layer.content if layer.form is Form.TREE else self.context.mounts.where(layer.name)


def trial_layer(trial: Path, mount: MountImage = mount_image) -> int:
    """A detached mount of an empty layer, written to the directory ``trial``; raises as ``mount`` does."""
    from mesocosm.images.erofs.sink import ErofsSink  # only for the trial, once per boot

    image = trial / "layer.erofs"
    sink = ErofsSink(image)
    try:
        sink.finish(hashlib.sha256())
    except BaseException:
        sink.abort()
        raise
    try:
        return mount((image,))
    finally:
        with contextlib.suppress(OSError):
            image.unlink()
