"""A plain directory as an image: whatever root file system lies there, shown as it is."""

from __future__ import annotations

from pathlib import Path

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.images.reference import Reference
from mesocosm.images.stacking import stack
from mesocosm.images.stores.base import Root, Store
from mesocosm.plan.operations import BindRoot


class DirectoryStore(Store):
    """``dir:PATH``.  Writable roots keep their changes apart: the directory itself never changes."""

    name = "directory"
    transports = frozenset({"dir"})
    layered = False

    def root(self, reference: Reference, *, scratch: Path | None, read_only: bool) -> Root:
        """As `Store.root`; without ``scratch`` a bind mount."""
        path = Path(reference.path).absolute()
        if not path.exists():
            raise NotFound(f"{reference}: no such directory")
        real = path.resolve()
        if not real.is_dir():
            raise InvalidConfig(f"{reference}: that is not a directory")
        if scratch is None:
            return Root(step=BindRoot(source=str(real), read_only=read_only), reference=f"dir:{path}")
        top = self.context.paths.top
        step = stack([str(real)], scratch, top if read_only and not _holds(real, top) else None)
        return Root(step=step, reference=f"dir:{path}")


def _holds(directory: Path, path: Path) -> bool:
    """Whether one lies in the other: overlayfs takes no layer that lies in another one (ELOOP)."""
    return path.resolve().is_relative_to(directory)
