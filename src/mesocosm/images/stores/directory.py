"""A plain directory as an image: whatever root file system lies there."""

from __future__ import annotations

from pathlib import Path

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Store, Tree


class DirectoryStore(Store):
    """``dir:PATH``.  No backend changes the directory itself."""

    name = "directory"
    transports = frozenset({"dir"})
    layered = False

    def root(self, reference: Reference, *, scratch: Path, read_only: bool) -> Tree:
        """As `Store.root`.  Raises NotFound, InvalidConfig."""
        del scratch, read_only
        path = Path(reference.path).absolute()
        if not path.exists():
            raise NotFound(f"{reference}: no such directory")
        real = path.resolve()
        if not real.is_dir():
            raise InvalidConfig(f"{reference}: that is not a directory")
        return Tree(path=real, reference=f"dir:{path}")
