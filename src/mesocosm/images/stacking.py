"""Roots of several directories, one over the other: the step, and the directories that it takes besides."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mesocosm.errors import Exhausted
from mesocosm.images.documents import LAYER_LIMIT
from mesocosm.model.idmap import IDMap
from mesocosm.plan import RootStep
from mesocosm.plan.operations import BindRoot, OverlayRoot

_OURS: Final = 2
"""Layers of ours in a root without changes: the empty top, and the mount points that the image lacks."""


def stack(
    directories: Sequence[str], scratch: Path, top: Path | None, idmap: IDMap | None = None
) -> RootStep:
    """The step for an overlay of directories, top first, with changes below ``scratch``.

    Without any, the root is an empty directory.  With ``top``, an empty directory to lie on the others, it
    takes no changes: there is no place for them.  Where that cannot be, for no layers and for as many as
    overlayfs takes, the root has to be made read-only after its mounts.

    A directory that comes twice is left out the second time, which overlayfs would refuse (ELOOP): all that
    a layer has, and hides, the same layer above it has and hides already.
    """
    if len(directories) > LAYER_LIMIT:
        raise Exhausted(f"the image needs {len(directories)} layers, overlayfs takes {LAYER_LIMIT}")
    if not directories:
        return BindRoot(source=str(scratch / "upper"), read_only=False)
    layers = tuple(dict.fromkeys(directories))
    if top is not None and len(layers) <= LAYER_LIMIT - _OURS:
        return OverlayRoot(layers=(str(top), *layers), idmap=idmap)
    return OverlayRoot(layers=layers, upper=str(scratch / "upper"), work=str(scratch / "work"), idmap=idmap)


def prepare(step: RootStep, scratch: Path, top: Path, idmap: IDMap | None = None) -> RootStep:
    """Make the directories that a step names, and return it; blocking.

    ``top``, or a container's own ``upper``, decides how ``/`` looks: 0755, and root's, or whose root is
    mapped to.
    """
    if isinstance(step, OverlayRoot) and step.upper is None:
        with contextlib.suppress(FileExistsError):
            top.mkdir()
        top.chmod(0o755)  # also where whoever made it was interrupted
    else:
        make_changes(scratch, idmap)
    return step


def make_changes(scratch: Path, idmap: IDMap | None = None) -> None:
    """Make the directories for changes, where they are not there yet."""
    if not scratch.exists():
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, mode in (("upper", 0o755), ("work", 0o700)):
        with contextlib.suppress(FileExistsError):
            (scratch / name).mkdir()
            (scratch / name).chmod(mode)
            if idmap is not None and idmap.owner is not None and name == "upper":
                os.chown(scratch / name, *idmap.owner)
