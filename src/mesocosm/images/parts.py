"""The parts that every operation on a host's images works with, wired once."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

from mesocosm.errors import MesocosmError
from mesocosm.images.automatic import Automatic
from mesocosm.images.backends.choice import BackendChoice
from mesocosm.images.collect import Collector
from mesocosm.images.digest import hex_of
from mesocosm.images.direct import DirectRoots
from mesocosm.images.families import Families
from mesocosm.images.having import Having
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.inspection import Inspection
from mesocosm.images.layers.mounts import LayerMounts
from mesocosm.images.naming import Named, Naming
from mesocosm.images.outgoing import Outgoing
from mesocosm.images.platform import platform_of
from mesocosm.images.progress import Report
from mesocosm.images.pull import Puller
from mesocosm.images.rebuild import rebuild
from mesocosm.images.roots import Roots
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust.admission import Admission
from mesocosm.images.trust.rights import Rights
from mesocosm.paths import Paths


class Parts:
    """One image store, and whoever works on it; belongs to one event loop."""

    def __init__(
        self,
        paths: Paths,
        store: ImageStore,
        families: Families,
        report: Report,
        policy: Path,
        settings: Path,
    ) -> None:
        self.store = store
        self.mounts = LayerMounts(paths.layers)
        self._paths = paths
        self._families = families
        self._report = report
        self._backends = BackendChoice(paths, self.mounts)
        self._naming = Naming(store.catalogue, functools.partial(rebuild, store))
        self._admission = Admission(policy, store, families)
        self._rights = Rights(policy, store, families)
        self.automatic = Automatic(store, settings, self._trim, report)
        self._puller = Puller(store, families, self._admission, self._rights, self.automatic)
        self._roots = Roots(store, self.mounts)
        self._direct = DirectRoots(families, self._backends, paths.top)
        self._having = Having(store, self._rights, self._puller)
        self._outgoing = Outgoing(store, families, self._naming, self._rights)
        self._collector = Collector(store)
        self._inspection = Inspection(store, lambda: self._backends.likely(None).form, self.mounts.mounted)

    def _trim(self) -> None:
        with contextlib.suppress(MesocosmError, OSError):  # whoever comes next tries again
            self.mounts.trim(lambda: frozenset(map(hex_of, self.store.leases.needed().layers)))

    async def _here(self, text: str, platform: str | None) -> ImageRecord:
        named: Named = await in_thread(self._naming.require, text, platform_of(platform))
        return named.require_image()
