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
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from mesocosm import trace
from mesocosm.errors import Corrupt, InvalidConfig, Unavailable
from mesocosm.images import policy
from mesocosm.images.admission import Admission
from mesocosm.images.backends import backend_class
from mesocosm.images.backends.base import Backend, StackedLayer
from mesocosm.images.backends.choice import BackendChoice
from mesocosm.images.collect import Collector, Limits, Plan
from mesocosm.images.export import Export, names_for, save
from mesocosm.images.families import Families
from mesocosm.images.image import Image, ImageRecord, RefRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.inspection import Inspection, Step, Usage
from mesocosm.images.layer_mounts import LayerMounts
from mesocosm.images.layers import Form
from mesocosm.images.leases import CONTAINER
from mesocosm.images.loading import images_in
from mesocosm.images.naming import Named, Naming, canonical, missing
from mesocosm.images.platform import Platform, host_platform, parse_platform
from mesocosm.images.progress import Report, silent
from mesocosm.images.pull import Puller, Wanted
from mesocosm.images.reference import Reference
from mesocosm.images.removal import Removal, pin_owner, remove
from mesocosm.images.stores.base import StoreContext
from mesocosm.images.transfer import in_thread
from mesocosm.images.verification import Verdict, Verification
from mesocosm.model import ContainerID, ImageIdentity, ImageRuntime
from mesocosm.paths import Paths
from mesocosm.plan import RootStep

if TYPE_CHECKING:
    from mesocosm.images.registry.client import CredentialSource
    from mesocosm.images.registry.hosts import HostsConfig

POLICIES: Final = ("always", "missing", "never", "newer")
"""When to ask the source: every time; when the image is not here; not at all; every time, but go on with what
is here when it does not answer."""

ATTEMPTS: Final = 3
"""Times that an image is brought back when a collector took it between finding and leasing it."""


class Provision(msgspec.Struct, frozen=True, kw_only=True):
    """What a container is made of: which bytes, what they say of the process, how the root is assembled."""

    identity: ImageIdentity
    runtime: ImageRuntime
    root: RootStep


class Provisioner:
    """Images on this host.  Use ``Provisioner.open``; belongs to one event loop.

    Any number of processes may use one store at once.  Methods raise MesocosmError only.
    """

    def __init__(
        self, paths: Paths, store: ImageStore, families: Families, report: Report, policy: Path
    ) -> None:
        self.store = store
        self.mounts = LayerMounts(paths.layers)
        self._paths = paths
        self._families = families
        self._report = report
        self._backends = BackendChoice(paths, self.mounts)
        self._naming = Naming(store.catalogue)
        self._admission = Admission(policy, store, families)
        self._puller = Puller(store, families, self._admission.before_fetch, self._make_room)
        self._collector = Collector(store)
        self._inspection = Inspection(store, lambda: self._backends.likely(None).form, self.mounts.mounted)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        paths: Paths,
        *,
        progress: Report | None = None,
        policy: Path = policy.PATH,
        hosts: HostsConfig | None = None,
        credentials: CredentialSource | None = None,
    ) -> AsyncIterator[Provisioner]:
        """Open the image store below ``paths``.  ``progress`` takes the reports of all pulls.

        ``policy`` is the file of policy.py.  On leaving, layers that no container needs are unmounted.
        """
        store = await in_thread(ImageStore.open, paths.images)
        context = StoreContext(paths=paths, blobs=store.blobs, hosts=hosts, credentials=credentials)
        families = Families(context)
        provisioner = cls(paths, store, families, progress or silent, policy)
        try:
            yield provisioner
        finally:
            await families.close()
            await in_thread(provisioner._trim)

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
        scratch: Path,
    ) -> Provision:
        """Have the image, lease it for the container, and prepare its root; changes go below ``scratch``.

        May be called again for the same container: leases add up.  ``read_only`` roots have an upper layer
        too, in which mount points are made before the root becomes read-only.
        """
        wanted = _platform(platform)
        if pull == "missing":
            known: Provision | None = await in_thread(
                self._at_once, container, reference, wanted, backend, scratch, read_only
            )
            if known is not None:
                return known
        named = await in_thread(self._naming.find, reference, wanted)
        if backend is not None:
            backend_class(backend)  # a root that needs none is no reason to let a wrong name pass
        direct = await self._direct(named, scratch, read_only)
        if direct is not None:
            return direct
        chosen: Backend = await in_thread(self._backends.get, backend)
        for _ in range(ATTEMPTS):
            image, ref = await self._have(named, wanted, chosen, pull)
            step = await in_thread(
                self._assemble, container, named.reference, image, chosen, scratch, read_only
            )
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
        scratch: Path,
    ) -> Provision:
        """Say what `provision` would, without changing anything.  NotFound for images that are not here."""
        named = await in_thread(self._naming.find, reference, _platform(platform))
        if named.reference is not None and not self._families.store(named.reference).layered:
            return _direct(named.reference, self._families, scratch, read_only)
        image = named.image
        if image is None:
            raise missing(named.reference, reference)
        chosen: Backend = await in_thread(self._backends.likely, backend)
        step = chosen.preview(self._stacked(image, chosen), scratch, read_only=read_only)
        return _provision(named, image, named.ref, step)

    async def release(self, container: ContainerID) -> None:
        """Let go of what the container held; idempotent.  ``scratch`` stays its caller's."""
        await in_thread(self.store.leases.drop, f"{CONTAINER}{container}")

    async def recover(self, known: Collection[ContainerID] | Callable[[], Collection[ContainerID]]) -> None:
        """Forget leases of containers that are not known, and sweep what crashes left behind.

        ``known`` as a callable is asked after the leases were listed, so that a container recorded meanwhile
        is not mistaken for one that is gone.
        """
        await in_thread(self._recover, known)

    # --- images ---------------------------------------------------------------------------------------------

    async def pull(
        self,
        reference: str,
        *,
        policy: str = "always",
        platform: str | None = None,
        backend: str | None = None,
        progress: Report | None = None,
    ) -> Image:
        """Have the image on this host, ready to be mounted, as fresh as ``policy`` asks for (`POLICIES`)."""
        wanted = _platform(platform)
        named = await in_thread(self._naming.find, reference, wanted)
        if named.reference is not None and not self._families.store(named.reference).layered:
            raise InvalidConfig(f"{reference} has nothing to pull", hint="it is used as it is")
        chosen: Backend = await in_thread(self._backends.get, backend)
        image, _ = await self._have(named, wanted, chosen, policy, progress)
        found: Image = await in_thread(self._inspection.image, image)
        return found

    async def images(self) -> list[Image]:
        """Return every image on this host, the latest pulled first."""
        found: list[Image] = await in_thread(self._inspection.images)
        return found

    async def inspect(self, text: str, *, platform: str | None = None) -> Image:
        """Return one image, by name or by the beginning of its digest.  Raises NotFound."""
        return await in_thread(self._inspection.image, await self._here(text, platform))

    async def documents(self, text: str, *, platform: str | None = None) -> tuple[bytes, bytes]:
        """Return the exact bytes of an image's manifest and of its configuration."""
        return await in_thread(self._inspection.documents, await self._here(text, platform))

    async def history(self, text: str, *, platform: str | None = None) -> list[Step]:
        """Return how an image was made, the latest step first."""
        return await in_thread(self._inspection.history, await self._here(text, platform))

    async def usage(self) -> Usage:
        """Return what images take on disk, layer by layer, and who has them."""
        return await in_thread(self._inspection.usage)

    async def tag(self, text: str, name: str, *, platform: str | None = None) -> Image:
        """Give an image one more name, or move the name to it: ``HOST/NAME:TAG``."""
        image = await self._here(text, platform)
        reference = canonical(name)
        if reference.transport != "docker" or reference.tag is None or reference.digest is not None:
            raise InvalidConfig(f"{name} is not a name to give", hint="names are written HOST/NAME:TAG")
        await in_thread(self.store.catalogue.name, RefRecord(reference=str(reference), digest=image.digest))
        return await in_thread(self._inspection.image, image)

    async def remove(self, text: str, *, force: bool = False, platform: str | None = None) -> Removal:
        """Remove a name, and with the last one the image; Busy while a container holds it."""
        named = await in_thread(self._naming.require, text, _platform(platform))
        return await in_thread(lambda: remove(self.store, named, named.require_image(), force=force))

    async def prune(self, limits: Limits | None = None, *, dry_run: bool = False) -> Plan:
        """Remove images without a name, and with ``limits`` those unused for longest; what is held stays.

        ``dry_run`` only says what would go.
        """
        await in_thread(self._trim)
        act = self._collector.plan if dry_run else self._collector.collect
        return await in_thread(act, limits)

    async def pin(self, text: str) -> Image:
        """Keep an image from being collected or removed."""
        image = await self._here(text, None)
        leases = self.store.leases
        await in_thread(leases.extend, pin_owner(image), image.documents, image.diff_ids)
        return await in_thread(self._inspection.image, image)

    async def unpin(self, text: str) -> Image:
        """Undo `pin`; idempotent."""
        image = await self._here(text, None)
        await in_thread(self.store.leases.drop, pin_owner(image))
        return await in_thread(self._inspection.image, image)

    async def verify(self, text: str, *, repair: bool = False, platform: str | None = None) -> Verdict:
        """Read an image again and compare every byte.  ``repair`` fetches anew what is damaged or absent."""
        wanted = _platform(platform)
        named = await in_thread(self._naming.require, text, wanted)
        image, chosen = named.require_image(), await in_thread(self._backends.get, None)
        verification = Verification(self.store)
        verdict: Verdict = await in_thread(verification.image, image, chosen.form)
        if repair and not verdict.sound:
            await in_thread(verification.discard, verdict)
            await in_thread(self.mounts.drop, [_hex(digest) for digest in verdict.damaged])
            await self._restore(named.reference, image, wanted, chosen, "always")
        return verdict

    # --- in and out -----------------------------------------------------------------------------------------

    async def save(self, texts: Sequence[str], target: int, *, platform: str | None = None) -> None:
        """Write images to an open file as one archive, OCI layout and ``docker save`` at once."""
        wanted = _platform(platform)
        exports = []
        for text in texts:
            named: Named = await in_thread(self._naming.require, text, wanted)
            names = names_for([named.reference] if named.reference else [])
            exports.append(Export(named.require_image(), names))
        await in_thread(save, self.store.blobs, exports, target)

    async def load(
        self, path: Path, *, platform: str | None = None, progress: Report | None = None
    ) -> list[Image]:
        """Read every image of an archive, and give them the names it has for them."""
        chosen: Backend = await in_thread(self._backends.get, None)
        loaded = []
        async for found in images_in(path, self._families, _platform(platform)):
            image = await self._puller.keep(found, chosen.form, progress or self._report)
            loaded.append(await in_thread(self._inspection.image, image))
        return loaded

    async def push(self, text: str, target: str | None = None, *, progress: Report | None = None) -> str:
        """Have an image in a registry, under its own name or ``target``; returns its digest."""
        from mesocosm.images.pushing import push  # the HTTP library takes long to import

        named: Named = await in_thread(self._naming.require, text, host_platform())
        name = canonical(target) if target else named.reference
        if name is None:
            raise InvalidConfig(f"{text} has no name to push it by", hint="give one: HOST/NAME:TAG")
        return str(
            await push(self.store, self._families, named.require_image(), name, progress or self._report)
        )

    # --- how ------------------------------------------------------------------------------------------------

    async def _direct(self, named: Named, scratch: Path, read_only: bool) -> Provision | None:
        """The provision of a family without layers; None for the others."""
        if named.reference is None or self._families.store(named.reference).layered:
            return None
        await in_thread(self._admission.direct, named.reference)
        await in_thread(_make_changes, scratch)
        return _direct(named.reference, self._families, scratch, read_only)

    async def _have(
        self,
        named: Named,
        platform: Platform,
        backend: Backend,
        policy: str,
        progress: Report | None = None,
    ) -> tuple[ImageRecord, RefRecord | None]:
        """Have the image on this host, as fresh as the policy asks for."""
        if policy not in POLICIES:
            raise InvalidConfig(f"pull policy {policy!r} is unknown", hint=f"use {', '.join(POLICIES)}")
        image, reference = named.image, named.reference
        complete = image is not None and await in_thread(self.store.complete, image, backend.form)
        if (
            reference is None
            or policy == "never"
            or (policy == "missing" and image and not _is_local(reference))
        ):
            if image is None:
                raise missing(reference, "")
            if not complete:
                await self._restore(reference, image, platform, backend, policy)
            return image, named.ref
        try:
            wanted = Wanted(reference, platform, backend.form)
            pulled = await self._puller.pull(wanted, progress or self._report)
        except Unavailable:
            if policy != "newer" or image is None or not complete:
                raise
            return image, named.ref
        return pulled.image, pulled.ref

    async def _restore(
        self,
        reference: Reference | None,
        image: ImageRecord,
        platform: Platform,
        backend: Backend,
        policy: str,
    ) -> None:
        offline = reference is None or policy == "never"
        wanted = Wanted(reference or Reference("host"), platform, backend.form)
        await self._puller.restore(wanted, image, self._report, offline=offline)

    def _at_once(
        self,
        container: ContainerID,
        text: str,
        platform: Platform,
        backend: str | None,
        scratch: Path,
        read_only: bool,
    ) -> Provision | None:
        """The provision of an image that is here, whole, and need not be asked about; None for all others."""
        named = self._naming.find(text, platform)
        if named.image is None or (named.reference is not None and _is_local(named.reference)):
            return None
        step = self._assemble(
            container, named.reference, named.image, self._backends.get(backend), scratch, read_only
        )
        return None if step is None else _provision(named, named.image, named.ref, step)

    def _assemble(
        self,
        container: ContainerID,
        reference: Reference | None,
        image: ImageRecord,
        backend: Backend,
        scratch: Path,
        read_only: bool,
    ) -> RootStep | None:
        """Lease the image and prepare the root; None when layers have gone meanwhile."""
        self._admission.before_start(reference, image)
        owner = f"{CONTAINER}{container}"
        self.store.leases.extend(owner, image.documents, image.diff_ids)
        trace.point("provisioner.leased")
        if not self.store.complete(image, backend.form):
            return None
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        step = backend.root(self._stacked(image, backend), scratch, read_only=read_only)
        trace.point("provisioner.prepared")
        self.store.catalogue.used(image.digest, time.time())
        return step

    def _stacked(self, image: ImageRecord, backend: Backend) -> tuple[StackedLayer, ...]:
        """The image's layers, top first; on top of them the look of directories they do not describe."""
        form, layers = backend.form, self.store.layers
        stack = [StackedLayer(one.hex, layers.content(one, form), form) for one in reversed(image.diff_ids)]
        if image.looks:
            stack.insert(0, StackedLayer(image.chain_id.hex, self.store.looks(image), Form.TREE))
        return tuple(stack)

    def _recover(self, known: Collection[ContainerID] | Callable[[], Collection[ContainerID]]) -> None:
        ask = known if callable(known) else lambda: known
        self.store.leases.drop_all_but(lambda: {str(container) for container in ask()})
        self.store.sweep()
        self._trim()

    def _trim(self) -> None:
        with contextlib.suppress(Corrupt):
            self.mounts.trim(lambda: frozenset(map(_hex, self.store.leases.needed().layers)))

    def _make_room(self) -> bool:
        """Remove what nobody needs; whether that freed anything."""
        self._trim()
        return self._collector.collect().size > 0

    async def _here(self, text: str, platform: str | None) -> ImageRecord:
        named: Named = await in_thread(self._naming.require, text, _platform(platform))
        return named.require_image()


def _platform(text: str | None) -> Platform:
    return parse_platform(text) if text else host_platform()


def _hex(digest: str) -> str:
    return digest.rpartition(":")[2]


def _provision(named: Named, image: ImageRecord, ref: RefRecord | None, step: RootStep) -> Provision:
    name = str(named.reference) if named.reference else image.digest
    identity = image.identity(name, ref.checked_at if ref else None)
    return Provision(identity=identity, runtime=image.runtime, root=step)


def _is_local(reference: Reference) -> bool:
    """Whether asking costs no more than reading a file here: then the answer is never taken from memory."""
    return bool(reference.path) and not reference.is_url


def _make_changes(scratch: Path) -> None:
    for directory, mode in ((scratch, 0o700), (scratch / "upper", 0o755), (scratch / "work", 0o700)):
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        directory.chmod(mode)


def _direct(reference: Reference, families: Families, scratch: Path, read_only: bool) -> Provision:
    root = families.store(reference).root(reference, scratch=scratch, read_only=read_only)
    identity = ImageIdentity(reference=root.reference, platform=str(host_platform()), checked_at=time.time())
    return Provision(identity=identity, runtime=ImageRuntime(), root=root.step)
