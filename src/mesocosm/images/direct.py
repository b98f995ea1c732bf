"""Roots of families without layers: a directory, which backends of trees show as if it were an image's only
layer, and what a store assembles by itself.

A backend that was asked for by name makes the root, or is refused with those that can.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.images.backends import backend_class
from mesocosm.images.backends.base import Backend, StackedLayer
from mesocosm.images.backends.choice import BackendChoice
from mesocosm.images.families import Families
from mesocosm.images.layers.store import Form
from mesocosm.images.naming import canonical, is_whole_id
from mesocosm.images.reference import Reference
from mesocosm.images.stacking import prepare
from mesocosm.images.store_faults import store_faults
from mesocosm.images.stores.base import Root, Tree
from mesocosm.images.wish import Wish
from mesocosm.plan import RootStep
from mesocosm.plan.operations import BindRoot, HostRoot, OverlayRoot

USUAL: Final = "overlay"
"""The backend of directories where nobody chose: at once, and the directory stays as it is."""


class DirectRoots:
    """Makes roots of what has no layers; blocking, but in no time without a backend's name."""

    def __init__(self, families: Families, backends: BackendChoice, top: Path) -> None:
        self._families = families
        self._backends = backends
        self._top = top

    def meant(self, text: str) -> Reference | None:
        """The reference, where its family has no layers; else None."""
        reference = None if is_whole_id(text) else canonical(text)
        return None if reference is None or self._families.store(reference).layered else reference

    def prepare(self, reference: Reference, backend: str | None, wish: Wish) -> Root:
        """Make the root.  Raises NotFound, InvalidConfig; Unsupported for a backend that cannot."""
        found = self._found(reference, backend, wish)
        if isinstance(found, Root):
            prepare(found.step, wish.scratch, self._top, wish.idmap)
            return found
        chosen = self._backends.likely(USUAL) if backend is None else self._backends.get(backend)
        layers, read_only = self._stacked(found, chosen, wish)
        with store_faults(wish.scratch.parent):
            step = chosen.root(layers, wish.scratch, read_only=read_only, idmap=wish.idmap)
        return Root(step=step, reference=found.reference)

    def preview(self, reference: Reference, backend: str | None, wish: Wish) -> Root:
        """Say what `prepare` would, without changing anything."""
        found = self._found(reference, backend, wish)
        if isinstance(found, Root):
            return found
        chosen = self._backends.likely(backend or USUAL)
        layers, read_only = self._stacked(found, chosen, wish)
        step = chosen.preview(layers, wish.scratch, read_only=read_only, idmap=wish.idmap)
        return Root(step=step, reference=found.reference)

    def _found(self, reference: Reference, backend: str | None, wish: Wish) -> Root | Tree:
        if backend is not None:
            backend_class(backend)  # InvalidConfig for a wrong name, before anything else
        if wish.changes is not None:
            raise InvalidConfig(
                f"{reference} is no image of layers: changes to its root cannot be kept",
                hint="import it as an image first",
            )
        found = self._families.store(reference).root(
            reference, scratch=wish.scratch, read_only=wish.read_only
        )
        if isinstance(found, Tree):
            return found
        if backend not in (None, _kind(found.step)):
            raise Unsupported(
                f"the {backend} backend makes no root of {reference}, which is assembled in its own way",
                hint=f"leave --backend out, or say {_kind(found.step)}: that is what it is",
            )
        return msgspec.structs.replace(found, step=msgspec.structs.replace(found.step, idmap=wish.idmap))

    def _stacked(self, tree: Tree, backend: Backend, wish: Wish) -> tuple[list[StackedLayer], bool]:
        """The directory as the only layer, and whether its root is to be read-only from the start.

        overlayfs takes no layer that lies in another one (ELOOP), as our empty top would in ``/run``.
        """
        if backend.form is not Form.TREE:
            raise Unsupported(
                f"the {backend.name} backend shows layers that are EROFS files, "
                f"and {tree.reference} is a directory",
                hint="use --backend overlay, copy or bind, or make an image of it with mesocosm import",
            )
        layers = [StackedLayer(tree.path.name, tree.path, Form.TREE)]
        read_only = wish.read_only and not _holds(tree.path, self._top)
        step = backend.preview(layers, wish.scratch, read_only=read_only)
        if _is_copy(step, tree.path) and _holds(tree.path, wish.scratch):
            raise InvalidConfig(
                f"{tree.reference} holds {wish.scratch}, the place that it is to be copied to",
                hint="leave --backend out: then nothing is copied",
            )
        return layers, read_only


def _kind(step: RootStep) -> str:
    """The backend whose roots are of that kind."""
    return "overlay" if isinstance(step, OverlayRoot | HostRoot) else "bind"


def _is_copy(step: RootStep, tree: Path) -> bool:
    """Whether the root is a tree of the container's own."""
    return isinstance(step, BindRoot) and step.source != str(tree)


def _holds(directory: Path, path: Path) -> bool:
    """Whether ``path``, which need not be there yet, lies in the directory, and on its file system.

    Directories are compared, not their names: by a bind mount one has several.
    """
    whole = path.resolve()
    there = [one.stat() for one in (whole, *whole.parents) if one.exists()]
    itself = directory.stat()
    return there[0].st_dev == itself.st_dev and any(os.path.samestat(one, itself) for one in there)
