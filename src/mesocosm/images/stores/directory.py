"""A plain directory as an image: whatever root file system lies there, shown as it is."""

from __future__ import annotations

from pathlib import Path

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Root, Store
from mesocosm.plan.operations import BindRoot, OverlayRoot


class DirectoryStore(Store):
    """``dir:PATH``.  Writable roots keep their changes apart: the directory itself never changes."""

    name = "directory"
    transports = frozenset({"dir"})
    layered = False

    def root(self, reference: Reference, *, scratch: Path | None, read_only: bool) -> Root:
        """As `Store.root`; without ``scratch`` and with ``read_only`` a bind mount."""
        path = Path(reference.path).absolute()
        if not path.exists():
            raise NotFound(f"{reference}: no such directory")
        real = path.resolve()
        if not real.is_dir():
            raise InvalidConfig(f"{reference}: that is not a directory")
        if scratch is None:
            return Root(step=BindRoot(source=str(real), read_only=read_only), reference=f"dir:{path}")
        step = OverlayRoot(layers=(str(real),), upper=str(scratch / "upper"), work=str(scratch / "work"))
        return Root(step=step, reference=f"dir:{path}")
