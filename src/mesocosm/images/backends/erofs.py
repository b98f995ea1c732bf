"""Overlay on EROFS files, each mounted once for the whole host: the default where the kernel can."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mesocosm.images.backends.base import Backend, StackedLayer
from mesocosm.images.backends.overlay import make_changes, stack, try_overlay
from mesocosm.images.layer_mounts import mount_image
from mesocosm.images.layers import Form
from mesocosm.plan import RootStep


class ErofsBackend(Backend):
    """Layers are EROFS files; their mounts are shared, and outlive every container."""

    name = "erofs"
    keeps = True
    form = Form.EROFS

    def probe(self) -> None:
        """Write an empty image, mount it from its file, and put a writable overlay on it."""
        from mesocosm.images.erofs import ErofsSink  # only for the trial, once per boot

        image = self.context.trial / "layer.erofs"
        sink = ErofsSink(image)
        try:
            sink.finish(hashlib.sha256())
        except BaseException:
            sink.abort()
            raise
        try:
            layer = mount_image((image,))
            try:
                try_overlay(self.context.trial, [layer])
            finally:
                os.close(layer)
        finally:
            with contextlib.suppress(OSError):
                image.unlink()

    def root(self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool) -> RootStep:
        """As `Backend.root`: mounts what is not mounted yet."""
        make_changes(scratch)
        images = {
            layer.name: (layer.content, *layer.devices) for layer in layers if layer.form is not Form.TREE
        }
        self.context.mounts.hold(images)
        return self.preview(layers, scratch, read_only=read_only)

    def preview(self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool) -> RootStep:
        """As `Backend.preview`."""
        del read_only
        return stack([str(self._where(layer)) for layer in layers], scratch)

    def _where(self, layer: StackedLayer) -> Path:
        return layer.content if layer.form is Form.TREE else self.context.mounts.where(layer.name)
