"""The backend contract.

A backend makes a root of an image's layers, and knows nothing of where they came from.

*At the start* ``probe`` is called once: it tries on this kernel and this file system what ``root`` will need,
by doing it in miniature, and raises Unsupported with a hint where that fails.  Version numbers are never
asked.  What it finds is believed until the next boot.  So what says nothing of the host is not Unsupported: a
disk that is full or fails (its OSError is let through), a process that may not mount (Denied).

*For a container* ``root`` is called with the layers in the form that the backend named, top first, and
answers how the child assembles the root: one step of the launch plan, an overlay or a bind mount.  There may
be no layers, and a layer may come more than once.  ``preview`` gives the same step with nothing done, for
``explain``, from any instance.  A stack that a backend cannot show is Unsupported to both.

*Changes* to a root lie below ``scratch``, which is the container's: there, and nobody else's to reach (0700),
for a root that may be changed, and not there before it is needed for a read-only one.  A read-only root has
no place for changes; one that cannot do without (a tree of its own, as many layers as overlayfs takes) has
mount points made there, until the plan makes it read-only after its mounts.  A backend may have no place for
changes at all.  ``/`` itself is 0755 and root's, or whose root is mapped to.

*With a mapping* of IDs the root shows the owners that it maps to, and the layers keep theirs.  Whom it lacks
is nobody; a backend that writes owners down refuses such a layer as InvalidConfig.

*Nothing is to be given back.*  What a backend prepares goes with ``scratch`` when the container has ended:
nothing is mounted on the host but layers (``LayerMounts``), no loop device, descriptor or process stays.
``root`` may be called again with the same ``scratch`` before anything was changed, also after a process died
anywhere in it; of a backend that ``keeps``, also with all changes there.  One instance serves many containers
at a time, in threads.

`mesocosm.images.conformance.BackendConformance` holds a backend to all of this.

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
        """Raise Unsupported, with what to do, where this host cannot; Denied, OSError; blocking.

        Leaves nothing but in ``context.trial``, which is empty, and removed afterwards.
        """
        raise NotImplementedError

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """Prepare, and say how the root is assembled; blocking.

        The layers are there, and leased.  ``read_only``: nothing is kept of what the container changes.
        ``idmap`` maps root.  Raises Unsupported, before anything was done; InvalidConfig; OSError for a disk
        that is full or fails.  ``scratch`` may lie on another file system than the layers.
        """
        raise NotImplementedError

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """Say what `root` would, without doing anything."""
        raise NotImplementedError
