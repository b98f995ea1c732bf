"""Overlay on directory trees: for kernels that cannot mount EROFS files."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from mesocosm.errors import Exhausted, Unsupported
from mesocosm.images.backends.base import Backend, StackedLayer
from mesocosm.images.documents import LAYER_LIMIT
from mesocosm.images.layers import Form
from mesocosm.images.store_faults import DISK
from mesocosm.linux import mounts
from mesocosm.model.idmap import IDMap
from mesocosm.plan import RootStep
from mesocosm.plan.operations import BindRoot, OverlayRoot


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
        """As `Backend.root`.  A read-only root has an upper layer too, for the mount points."""
        make_changes(scratch, idmap)
        return self.preview(layers, scratch, read_only=read_only, idmap=idmap)

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """As `Backend.preview`."""
        del read_only
        return stack([str(layer.content) for layer in layers], scratch, idmap)


def stack(directories: Sequence[str], scratch: Path, idmap: IDMap | None = None) -> RootStep:
    """The step for an overlay of directories, top first, with changes below ``scratch``.

    Without any, the root is an empty directory.

    A directory that comes twice is left out the second time, which overlayfs would refuse (ELOOP): all that
    a layer has, and hides, the same layer above it has and hides already.
    """
    if len(directories) > LAYER_LIMIT:
        raise Exhausted(f"the image needs {len(directories)} layers, overlayfs takes {LAYER_LIMIT}")
    if not directories:
        return BindRoot(source=str(scratch / "upper"), read_only=False)
    return OverlayRoot(
        layers=tuple(dict.fromkeys(directories)),
        upper=str(scratch / "upper"),
        work=str(scratch / "work"),
        idmap=idmap,
    )


def make_changes(scratch: Path, idmap: IDMap | None = None) -> None:
    """Make the directories for changes, where they are not there yet.

    ``upper`` decides how the container's ``/`` looks: 0755, root's, or whose root is mapped to.
    """
    for name, mode in (("upper", 0o755), ("work", 0o700)):
        with contextlib.suppress(FileExistsError):
            (scratch / name).mkdir()
            (scratch / name).chmod(mode)
            if idmap is not None and idmap.owner is not None and name == "upper":
                os.chown(scratch / name, *idmap.owner)


def try_overlay(trial: Path, lowers: Sequence[Path | int]) -> None:
    """Make a writable overlay with its changes in ``trial``, and let it go; raises Unsupported."""
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


def refused(error: OSError, where: Path) -> Unsupported:
    """Say in words why an overlay cannot be made."""
    if error.errno == errno.ENODEV:
        return Unsupported("this kernel has no overlayfs", hint="load it with modprobe overlay")
    if error.errno == errno.EPERM:
        return Unsupported("mounting is not permitted here", hint="run as root, with CAP_SYS_ADMIN")
    return Unsupported(
        f"overlayfs cannot keep changes on the file system of {where}: {error.strerror}",
        hint="put the root directory on ext4, xfs or btrfs, or use --backend copy",
    )
