"""A bind mount of the only layer's tree, read-only: nothing is stacked, nothing is copied (parity BK-3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mesocosm.errors import Unsupported
from mesocosm.images.backends.base import Backend, StackedLayer
from mesocosm.images.layers.store import Form
from mesocosm.model.idmap import IDMap
from mesocosm.plan import RootStep
from mesocosm.plan.operations import BindRoot


class BindBackend(Backend):
    """For images of one layer that bring their mount points along."""

    name = "bind"
    form = Form.TREE

    def probe(self) -> None:
        """Every Linux can."""

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """As `Backend.root`; Unsupported for more than one layer."""
        return self.preview(layers, scratch, read_only=read_only, idmap=idmap)

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        """As `Backend.preview`; the root is read-only in any case."""
        del scratch, read_only
        if len(layers) != 1:
            raise Unsupported(
                f"the bind backend shows images of one layer, this one has {len(layers)}",
                hint="use --backend overlay or copy",
            )
        return BindRoot(source=str(layers[0].content), read_only=True, idmap=idmap)
