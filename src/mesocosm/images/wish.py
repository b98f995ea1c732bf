"""What is asked of a root beside its image."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mesocosm.images.image import ImageRecord
from mesocosm.model import RootChanges
from mesocosm.model.idmap import IDMap


class Wish(msgspec.Struct, frozen=True):
    """What a root is to be: where its changes go, whether there are any, where they are kept, whose it is."""

    scratch: Path
    read_only: bool
    changes: RootChanges | None
    idmap: IDMap | None = None

    @property
    def place(self) -> Path:
        """Where a backend prepares the root."""
        return self.scratch if self.changes is None else Path(self.changes.path)

    def fixed(self, image: ImageRecord) -> bool:
        """Whether nothing will be changed: what the image declares as volumes stays writable."""
        return self.read_only and self.changes is None and not image.runtime.volumes
