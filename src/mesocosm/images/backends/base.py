"""The backend contract.

A backend makes a root of an image's layers, and knows nothing of where they came from.

*At the start* ``probe`` is called once: it tries on this kernel and this file system what ``root`` will need,
by doing it in miniature, and raises Unsupported with a hint where that fails.  Version numbers are never
asked.

*For a container* ``root`` is called with the layers in the form that the backend named, top first, and
answers how the child assembles the root: one step of the launch plan.  What it prepares lies below
``scratch``, which is the container's; for a read-only root that directory is not there before it is needed.
``preview`` gives the same step with nothing done, for ``explain``.
With a mapping of IDs the root shows the owners that it maps to, and the layers keep theirs.

Backends of others come as entry points of the group ``mesocosm.backends``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from mesocosm.images.layers.mounts import LayerMounts
from mesocosm.images.layers.store import Form
from mesocosm.model.idmap import IDMap
from mesocosm.plan import RootStep


class StackedLayer(msgspec.Struct, frozen=True):
    """One layer of an image: its diff ID's hex, and the file or tree that holds it.

    The uppermost may be a tree of directories in any backend's stack (layers/looks.py).  A merge of all
    layers comes alone, under the chain ID's hex, with the layers' files, bottom first, as its ``devices``
    (layers/merging.py).
    """

    name: str
    content: Path
    form: Form
    devices: tuple[Path, ...] = ()


class BackendContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend may use: the host's layer mounts, a directory to try things in, and the path of the
    empty directory that lies on top in roots without changes (`stacking.prepare` makes it).
    """

    mounts: LayerMounts
    trial: Path
    top: Path


class Backend:
    """Base of all backends: a file holds only its difference.

    ``form`` is what layers must be kept as.  ``keeps`` tells whether a ``scratch`` that a root had before
    may be given again, with all changes in it.
    """

    name: ClassVar[str]
    form: ClassVar[Form]
    keeps: ClassVar[bool] = False

    def __init__(self, context: BackendContext) -> None:
        self.context = context

    def probe(self) -> None:
        """Raise Unsupported, with what to do, where this host cannot; blocking."""
        raise NotImplementedError

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """Prepare, and say how the root is assembled; blocking.

        The layers are there, and leased.  ``read_only``: nothing is kept of what the container changes.
        ``idmap`` maps root.  Raises Unsupported.
        """
        raise NotImplementedError

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """Say what `root` would, without doing anything."""
        raise NotImplementedError
