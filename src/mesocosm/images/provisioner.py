"""The provisioner: from an image reference to a root file system, and back.

    async with Provisioner.open(paths) as provisioner:
        provision = await provisioner.provision(container, "debian:12", scratch=scratch)
        ...                                   # the launch plan begins with provision.root
        await provisioner.release(container)

*Stores* know one image family each and say what a reference stands for; *layers* are kept once per diff ID; a
*backend* makes a root of them; *leases* say who needs what.  None of the four knows the others: they meet
here.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from mesocosm import trace
from mesocosm.errors import Corrupt, InvalidConfig, about
from mesocosm.images import automatic, root_changes
from mesocosm.images.backends.base import Backend
from mesocosm.images.blobs import PARTIAL_AGE
from mesocosm.images.digest import Digest
from mesocosm.images.families import Families
from mesocosm.images.image import ImageRecord, RefRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.leases import CONTAINER, Holds, always
from mesocosm.images.library import Library
from mesocosm.images.naming import Named, is_local, missing
from mesocosm.images.platform import Platform, host_platform, platform_of
from mesocosm.images.progress import Report, silent
from mesocosm.images.rebuild import rebuild
from mesocosm.images.reference import Reference
from mesocosm.images.roots import missing_layers, require_keeping
from mesocosm.images.store_faults import store_faults
from mesocosm.images.stores.base import Root, StoreContext
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust import policy
from mesocosm.images.trust.policy import takes_schema1
from mesocosm.images.wish import Wish
from mesocosm.model import ContainerID, ImageIdentity, ImageRuntime, RootChanges
from mesocosm.model.idmap import IDMap
from mesocosm.paths import Paths
from mesocosm.plan import RootStep

if TYPE_CHECKING:
    from mesocosm.images.registry.client import CredentialSource
    from mesocosm.images.registry.hosts import HostsConfig
    from mesocosm.images.registry.throttle import Throttle

ATTEMPTS: Final = 3
"""Times that an image is brought back when a collector took it between finding and leasing it."""


class Provision(msgspec.Struct, frozen=True, kw_only=True):
    """What a container is made of: which bytes, what they say of the process, how the root is assembled."""

    identity: ImageIdentity
    runtime: ImageRuntime
    root: RootStep


class Provisioner(Library):
    """Images on this host, and roots made of them.  Use ``Provisioner.open``; belongs to one event loop."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        paths: Paths,
        *,
        progress: Report | None = None,
        policy: Path = policy.PATH,
        settings: Path = automatic.PATH,
        hosts: HostsConfig | None = None,
        credentials: CredentialSource | None = None,
        throttle: Throttle | None = None,
        holds: Holds = always,
    ) -> AsyncIterator[Provisioner]:
        """Open the image store below ``paths``.  ``progress`` takes the reports of all pulls,
        ``throttle`` bounds the bytes a second that registries give and take.

        ``policy`` is the file of trust/policy.py, ``settings`` that of automatic.py.
        ``holds`` tells who looks whether a container that has a lease still needs it.
        On leaving, layers that no container needs are unmounted.
        """
        store = await in_thread(ImageStore.open, paths.images, holds)
        context = StoreContext(
            paths=paths,
            blobs=store.blobs,
            hosts=hosts,
            credentials=credentials,
            throttle=throttle,
            takes_schema1=functools.partial(takes_schema1, policy),
        )
        families = Families(context)
        provisioner = cls(paths, store, families, progress or silent, policy, settings)
        try:
            yield provisioner
        finally:
            await provisioner.automatic.settle()
            await families.close()
            await in_thread(provisioner._trim)
            provisioner.mounts.close()

    # --- containers -----------------------------------------------------------------------------------------

    async def provision(
        self,
        container: ContainerID,
        reference: str,
        *,
        pull: str = "missing",
        platform: str | None = None,
        backend: str | None = None,
        read_only: bool = False,
        changes: RootChanges | None = None,
        idmap: IDMap | None = None,
        scratch: Path,
    ) -> Provision:
        """Have the image, lease it for the container, and prepare its root; changes go below ``scratch``.

        With ``changes`` they are kept (root_changes.py), and ``scratch`` only stands for the container.
        With ``idmap`` files look owned by whom it maps their owners to, and layers keep theirs.
        May be called again for the same container: leases add up.  A ``read_only`` root needs no place for
        changes where layers can be stacked: there is nothing below ``scratch`` then, and nothing to remove.
        """
        wish = Wish(scratch, read_only, changes, idmap)
        direct = self._direct.meant(reference)
        if direct is not None:
            return await self._provision_direct(direct, backend, wish)
        wanted = platform_of(platform)
        if pull == "missing":
            known: Provision | None = await in_thread(
                self._at_once, container, reference, wanted, backend, wish
            )
            if known is not None:
                return known
        named = await in_thread(self._naming.find, reference, wanted)
        chosen: Backend = await in_thread(self._backends.get, backend)
        with self.store.leases.pulling():
            for _ in range(ATTEMPTS):
                with about(reference):
                    image, ref = await self._having.image(named, wanted, chosen, pull, self._report)
                step = await in_thread(self._assemble, container, named.reference, image, chosen, wish)
                if step is not None:
                    return _provision(named, image, ref, step)
        raise Corrupt(f"layers of image {reference} keep disappearing", hint="is something removing them?")

    async def preview(
        self,
        reference: str,
        *,
        platform: str | None = None,
        backend: str | None = None,
        read_only: bool = False,
        changes: RootChanges | None = None,
        idmap: IDMap | None = None,
        scratch: Path,
    ) -> Provision:
        """Say what `provision` would, without changing anything.  NotFound for images that are not here."""
        wish = Wish(scratch, read_only, changes, idmap)
        direct = self._direct.meant(reference)
        if direct is not None:
            return _without_layers(self._direct.preview(direct, backend, wish))
        named = await in_thread(self._naming.find, reference, platform_of(platform))
        image = named.image
        if image is None:
            raise missing(named.reference, reference)
        chosen: Backend = await in_thread(self._backends.likely, backend)
        if changes is not None:
            require_keeping(chosen)
            await in_thread(root_changes.check, changes, image, idmap)
        return _provision(named, image, named.ref, self._roots.preview(image, chosen, wish))

    def require_layers(self, text: str) -> None:
        """Raise InvalidConfig where a reference means a root without layers, which is no image to mount."""
        if self._direct.meant(text) is not None:
            raise InvalidConfig(
                f"{text} is no image of layers that could be mounted",
                hint="a directory of the host is mounted by type=bind",
            )

    @contextlib.asynccontextmanager
    async def leased(self, digest: str) -> AsyncIterator[ImageRecord]:
        """The image with that manifest, which stays as long as the context, or its process.  NotFound."""
        with self.store.leases.pulling() as lease:
            image: ImageRecord = await in_thread(self.store.catalogue.require, digest)
            blobs = [Digest.parse(layer.digest) for layer in image.layers]
            await in_thread(lease.need, [*image.documents, *blobs], image.stored)
            yield image

    async def again(
        self, image: ImageRecord, place: Path, *, backend: str | None, idmap: IDMap | None
    ) -> RootStep:
        """The root whose changes were kept in ``place``, prepared as for a container that goes on with it.

        The image is leased.  Raises NotFound when layers of it have gone, Unsupported.
        """
        chosen: Backend = await in_thread(self._backends.get, backend)
        require_keeping(chosen)
        if not await in_thread(self.store.complete, image, chosen.form):
            raise missing_layers(image)
        wish = Wish(place, read_only=False, changes=None, idmap=idmap)
        step: RootStep = await in_thread(self._roots.prepare, image, chosen, wish)
        return step

    async def trees(self, image: ImageRecord) -> tuple[Path, ...]:
        """The directories that a copied root was made of, top first.  The image is leased; NotFound when
        layers of it have gone.
        """
        found: tuple[Path, ...] = await in_thread(self._roots.trees, image)
        return found

    async def release(self, container: ContainerID) -> None:
        """Let go of what the container held; idempotent.  ``scratch`` stays its caller's."""
        self.store.leases.drop(f"{CONTAINER}{container}")  # one unlink(2): a thread would take longer

    async def recover(self, known: Collection[ContainerID] | Callable[[], Collection[ContainerID]]) -> None:
        """Forget leases of containers that are not known, and sweep what crashes left behind; unfinished
        downloads stay for a day, for the next pull to go on with.

        ``known`` as a callable is asked after the leases were listed, so that a container recorded meanwhile
        is not mistaken for one that is gone.
        """
        await in_thread(self._recover, known)

    # --- how ------------------------------------------------------------------------------------------------

    async def _provision_direct(self, reference: Reference, backend: str | None, wish: Wish) -> Provision:
        """The provision of a family without layers; without a backend's name a thread would take longer."""
        self._admission.direct(reference)
        if backend is None:
            return _without_layers(self._direct.prepare(reference, None, wish))
        root: Root = await in_thread(self._direct.prepare, reference, backend, wish)
        return _without_layers(root)

    def _at_once(
        self,
        container: ContainerID,
        text: str,
        platform: Platform,
        backend: str | None,
        wish: Wish,
    ) -> Provision | None:
        """The provision of an image that is here, whole, and need not be asked about; None for all others."""
        named = self._naming.find(text, platform)
        if named.image is None or (named.reference is not None and is_local(named.reference)):
            return None
        if self._rights.wanted(named.reference, named.image):
            return None
        step = self._assemble(container, named.reference, named.image, self._backends.get(backend), wish)
        return None if step is None else _provision(named, named.image, named.ref, step)

    def _assemble(
        self,
        container: ContainerID,
        reference: Reference | None,
        image: ImageRecord,
        backend: Backend,
        wish: Wish,
    ) -> RootStep | None:
        """Lease the image and prepare the root; None when layers have gone meanwhile."""
        self._admission.before_start(reference, image)
        owner = f"{CONTAINER}{container}"
        with store_faults(self.store.root):
            self.store.leases.extend(owner, image.documents, image.stored)
            trace.point("provisioner.leased")
            if not self.store.complete(image, backend.form):
                return None
            if not wish.fixed(image):
                wish.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        if wish.changes is not None:
            require_keeping(backend)
            name = str(reference) if reference else image.digest
            root_changes.claim(wish.changes, image, wish.idmap, name, str(container), wish.scratch)
        step = self._roots.prepare(image, backend, wish)
        trace.point("provisioner.prepared")
        self.store.catalogue.used(image.digest, time.time())
        return step

    def _recover(self, known: Collection[ContainerID] | Callable[[], Collection[ContainerID]]) -> None:
        ask = known if callable(known) else lambda: known
        self.store.leases.drop_all_but(lambda: {str(container) for container in ask()})
        self.store.sweep(older_than=time.time() - PARTIAL_AGE)
        with store_faults(self.store.root):
            rebuild(self.store)
        self._trim()


def _provision(named: Named, image: ImageRecord, ref: RefRecord | None, step: RootStep) -> Provision:
    name = str(named.reference) if named.reference else image.digest
    identity = image.identity(name, ref.checked_at if ref else None)
    return Provision(identity=identity, runtime=image.runtime, root=step)


def _without_layers(root: Root) -> Provision:
    identity = ImageIdentity(reference=root.reference, platform=str(host_platform()), checked_at=time.time())
    return Provision(identity=identity, runtime=ImageRuntime(), root=root.step)
