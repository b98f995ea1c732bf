"""golden://NAME: the roots that this site keeps as tar files; and a backend that shows them without a place
for changes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.images.backends.base import StackedLayer
from mesocosm.images.backends.overlay import OverlayBackend
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Found, Store
from mesocosm.images.strict import Json
from mesocosm.images.tarball_image import image_of
from mesocosm.model.idmap import IDMap
from mesocosm.plan import RootStep

SHELF = Path("/srv/golden")


class GoldenStore(Store):
    """Images of one layer; the file's time, size and inode tell whether it is still the same."""

    name = "golden"
    transports = frozenset({"golden"})

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None, report: Report = silent
    ) -> Found | None:
        if not re.fullmatch(r"[a-z0-9-]+", reference.path):
            raise InvalidConfig(f"{reference}: golden roots have names of a-z, 0-9 and -")
        path = SHELF / f"{reference.path}.tar"
        try:
            there = path.stat()
        except FileNotFoundError:
            raise NotFound(f"there is no golden root {reference.path}", hint=f"see {SHELF}") from None
        stamp = f"{there.st_mtime_ns}-{there.st_size}-{there.st_ino}"
        if stamp == etag:
            return None
        runtime: dict[str, Json] = {"Cmd": ["/bin/sh"]}
        found = await asyncio.to_thread(image_of, path, platform, runtime, "golden root", there.st_mtime)
        return msgspec.structs.replace(found, source=str(path), etag=stamp)


class FrozenBackend(OverlayBackend):
    """Roots without a place for changes, whether they were asked for or not."""

    name = "frozen"
    keeps = False

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        return super().preview(layers, scratch, read_only=True, idmap=idmap)
