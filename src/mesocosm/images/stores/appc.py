"""App Container images: files, and images found by their names (appc spec, "ACI" and "Discovery").

An image is rendered as the spec has it: its dependencies first, in order, each with its own below it, and
then itself (Mesos took the manifest of the wrong one, parity APC-1).  A file's dependencies lie beside it;
those of an image found by its name are found by theirs.  Depth, number and cycles of dependencies are
bounded, and whitelists are paths within the image (I-19).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.appc.layer import converted, owner_in
from mesocosm.images.appc.manifest import Manifest, read_manifest
from mesocosm.images.appc.source import Aci, Neighbours, Source, check_pin
from mesocosm.images.digest import Digest
from mesocosm.images.documents import LAYER_LIMIT, Descriptor
from mesocosm.images.foreign import shown
from mesocosm.images.layers.entries import clean_path
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.platform import Platform, normalised
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Found, Store, StoreContext, fetching
from mesocosm.images.stores.resolve import resolve_made
from mesocosm.images.strict import Json
from mesocosm.images.synthesis import config_bytes, layer_descriptor, manifest_document
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust.signed_part import Part

if TYPE_CHECKING:
    from mesocosm.images.appc.web import Discovered
    from mesocosm.images.web import Web

DEPTH: Final = 16


class Rendered(msgspec.Struct, frozen=True):
    """One ACI of a rendering: its file, the whitelists that hold for it, its layer."""

    aci: Aci
    whitelists: tuple[frozenset[bytes], ...]
    layer: Descriptor


class AppcStore(Store):
    """``aci:PATH[@DIGEST]`` and ``appc:NAME[:VERSION][,LABEL=VALUE]...``.

    The digest is the file's, or the image ID (SHA-512 of the uncompressed tar).
    """

    name = "appc"
    transports = frozenset({"aci", "appc"})

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._web: Web | None = None
        self._parts: dict[Digest, tuple[Source, tuple[Aci, ...]]] = {}

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None, report: Report = silent
    ) -> Found | None:
        """As `Store.discover`; its ETag speaks of every image that makes it up."""
        discovered = self._discovered(reference, platform, report)
        if discovered is not None and etag is not None and await discovered.unchanged(etag):
            return None
        source, aci = await self._first(reference, discovered)
        rendering = Rendering(source)
        manifest = await rendering.render(aci, (), ())
        rendered = rendering.found
        layers = [one.layer for one in rendered]
        runtime = await in_thread(_runtime, manifest, aci, rendered)
        config = config_bytes(_platform(manifest, platform), [layer.digest for layer in layers], runtime)
        top, documents = manifest_document(config, layers)
        self._parts[top.digest] = (source, tuple(dict.fromkeys(one.aci for one in rendered)))

        return await resolve_made(
            top,
            documents,
            msgspec.structs.replace(reference, digest=None),
            platform,
            fetch=fetching(_Layers(rendered).open, resume=False),
            source=aci.name,
            etag=discovered.etag if discovered is not None else None,
        )

    async def parts(self, reference: Reference, digest: Digest) -> tuple[Part, ...]:
        """As `Store.parts`: every ACI of the rendering, with the signature beside it."""
        source, acis = self._parts.get(digest, (None, ()))
        return tuple([await source.signed(aci) for aci in acis]) if source is not None else ()

    async def _first(self, reference: Reference, discovered: Discovered | None) -> tuple[Source, Aci]:
        if discovered is None:
            path = Path(reference.path).absolute()
            if reference.digest is not None:
                await in_thread(check_pin, path, reference.digest)
            return Neighbours(), Aci(str(path), path)
        labels = dict(reference.labels) | ({"version": reference.tag} if reference.tag else {})
        return discovered, await discovered.get(reference.repository, labels)

    def _discovered(self, reference: Reference, platform: Platform, report: Report) -> Discovered | None:
        """What finds images by their names; None where the reference is a file."""
        if reference.transport == "aci":
            return None
        from mesocosm.images.appc.web import Discovered  # the HTTP library: only who fetches needs it
        from mesocosm.images.web import Web

        self._web = self._web or Web(self.context.hosts, throttle=self.context.throttle)
        return Discovered(self._web, self.context.hosts, self.context.blobs, platform, report)

    async def close(self) -> None:
        """As `Store.close`."""
        if self._web is not None:
            await self._web.close()


class Rendering:
    """The ACIs that an image is made of, lowest first in ``found``."""

    def __init__(self, source: Source) -> None:
        self.found: list[Rendered] = []
        self._source = source

    async def render(
        self, aci: Aci, whitelists: tuple[frozenset[bytes], ...], above: tuple[Aci, ...]
    ) -> Manifest:
        """Add an image and, before it, what it depends on; return its manifest.

        Raises NotFound for a dependency that is not there, Corrupt for a cycle, Exhausted beyond `DEPTH`.
        """
        if aci.path in [one.path for one in above]:
            way = " -> ".join(one.short for one in (*above, aci))
            raise Corrupt(f"{aci.name} depends on itself", hint=way)
        if len(above) >= DEPTH:
            raise Exhausted(f"{above[0].name}: dependencies are more than {DEPTH} deep")
        manifest = await in_thread(read_manifest, aci.path)
        if manifest.whitelist:
            whitelists = (*whitelists, manifest.whitelist)
        for dependency in manifest.dependencies:
            await self.render(await self._source.find(dependency, aci), whitelists, (*above, aci))
        if len(self.found) >= LAYER_LIMIT:
            raise Exhausted(f"{aci.name}: more than {LAYER_LIMIT} images make it up")
        layer = await in_thread(_layer_of, aci.path, whitelists)
        self.found.append(Rendered(aci, whitelists, layer))
        return manifest


class _Layers:
    """Opens the layers of a rendering."""

    def __init__(self, rendered: list[Rendered]) -> None:
        self._by_digest = {one.layer.digest: one for one in rendered}

    async def open(self, descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
        """Yield a layer's bytes from ``offset`` on."""
        one = self._by_digest[descriptor.digest]
        pieces = converted(one.aci.path, one.whitelists)
        try:
            while (piece := await in_thread(next, pieces, None)) is not None:
                skipped = min(offset, len(piece))
                offset -= skipped
                if skipped < len(piece):
                    yield piece[skipped:]
        finally:
            pieces.close()


def _layer_of(path: Path, whitelists: tuple[frozenset[bytes], ...]) -> Descriptor:
    running, size = hashlib.sha256(), 0
    for piece in converted(path, whitelists):
        running.update(piece)
        size += len(piece)
    return layer_descriptor("none", Digest("sha256", running.hexdigest()), size)


def _runtime(manifest: Manifest, aci: Aci, rendered: list[Rendered]) -> dict[str, Json]:
    """What the app asks for, with who it runs as; Corrupt where that is said by a file that is not there."""
    if manifest.user is None or manifest.group is None:
        return manifest.runtime
    user = str(_owner(manifest.user, aci, rendered)[0]) if manifest.user.startswith("/") else manifest.user
    group = (
        str(_owner(manifest.group, aci, rendered)[1]) if manifest.group.startswith("/") else manifest.group
    )
    return {**manifest.runtime, "User": f"{user}:{group}"}


def _owner(text: str, aci: Aci, rendered: list[Rendered]) -> tuple[int, int]:
    """Whose the file at a path is: in the uppermost of the images that have it."""
    wanted = clean_path(text.encode(), DEFAULT_LIMITS)
    for one in reversed(rendered):
        owner = owner_in(one.aci.path, one.whitelists, wanted)
        if owner is not None:
            return owner
    raise Corrupt(
        f"{aci.name}: its app runs as the owner of {shown(text, 80)}, which the image lacks",
        hint="users and groups are names, numbers, or paths of files in the image",
    )


def _platform(manifest: Manifest, wanted: Platform) -> Platform:
    labels = manifest.labels
    return normalised(Platform(labels.get("os", wanted.os), labels.get("arch", wanted.architecture)))
