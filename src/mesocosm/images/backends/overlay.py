"""Overlay on directory trees: for kernels that cannot mount EROFS files."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from mesocosm.errors import Denied, Unsupported
from mesocosm.images.backends.base import Backend, StackedLayer
from mesocosm.images.layers.mounts import not_permitted
from mesocosm.images.layers.store import Form
from mesocosm.images.stacking import make_changes, prepare, stack
from mesocosm.images.store_faults import DISK
from mesocosm.linux import mounts
from mesocosm.model.idmap import IDMap
from mesocosm.plan import RootStep


class OverlayBackend(Backend):
    """Layers are trees with overlayfs' own whiteouts; changes go to ``scratch/upper``."""

    name = "overlay"
    keeps = True
    form = Form.TREE

    def probe(self) -> None:
        """Make a writable overlay of two directories."""
        lower = self.context.trial / "lower"
        lower.mkdir(exist_ok=True)
        try_overlay(self.context.trial, [lower])

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """As `Backend.root`."""
        step = self.preview(layers, scratch, read_only=read_only, idmap=idmap)
        return prepare(step, scratch, self.context.top, idmap)

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """As `Backend.preview`."""
        directories = [str(layer.content) for layer in layers]
        return stack(directories, scratch, self.context.top if read_only else None, idmap)


def try_overlay(trial: Path, lowers: Sequence[Path | int]) -> None:
    """Make a writable overlay with its changes in ``trial``, and let it go; raises Unsupported, Denied."""
    make_changes(trial)
    layers = [lower if isinstance(lower, int) else str(lower) for lower in lowers]
    options = [("volatile", None)]
    try:
        fd = mounts.overlay(layers, upper=str(trial / "upper"), work=str(trial / "work"), options=options)
    except OSError as error:
        if error.errno in DISK:
            raise  # says nothing about what this host can
        raise refused(error, trial) from error
    os.close(fd)


def refused(error: OSError, where: Path) -> Unsupported | Denied:
    """Say in words why an overlay cannot be made."""
    if error.errno == errno.ENODEV:
        return Unsupported("this kernel has no overlayfs", hint="load it with modprobe overlay")
    if error.errno == errno.EPERM:
        return not_permitted()
    return Unsupported(
        f"overlayfs cannot keep changes on the file system of {where}: {error.strerror}",
        hint="put the root directory on ext4, xfs or btrfs, or use --backend copy",
    )
