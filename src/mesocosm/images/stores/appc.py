"""App Container images in files: a tar of ``manifest`` and ``rootfs/`` (appc spec, "ACI" and "Image
Manifest").

Dependencies are ACI files in the same directory, found by what their manifests say.  An image is rendered as
the spec has it: its dependencies first, in order, each with its own below it, and then itself (Mesos took the
manifest of the wrong one, parity APC-1).  Each ACI becomes an ordinary layer: the tar of its ``rootfs``, made
on the fly, always the same.  Depth, number and cycles of dependencies are bounded, and whitelists are paths
within the image (I-19).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from mesocosm.errors import Corrupt, Exhausted, NotFound, Unsupported
from mesocosm.images.archive import open_regular
from mesocosm.images.decompress import Decompressor
from mesocosm.images.digest import Digest
from mesocosm.images.documents import LAYER_LIMIT, Descriptor
from mesocosm.images.entries import WHITEOUT_PREFIX, clean_path
from mesocosm.images.foreign import shown
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.platform import Platform, normalised
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Document, Found, Store, fetching
from mesocosm.images.stores.resolve import resolve
from mesocosm.images.strict import Fields, Json, load
from mesocosm.images.synthesis import config_bytes, layer_descriptor, manifest_document
from mesocosm.images.tar import TarReader
from mesocosm.images.tar_header import BLOCK, HARDLINK, TarEntry
from mesocosm.images.tar_writer import END, member
from mesocosm.images.transfer import in_thread

DEPTH: Final = 16
MANIFEST_LIMIT: Final = 1 << 20
NEIGHBOURS: Final = 1000
"""ACI files of a directory that are looked into for dependencies."""

_PIECE: Final = 1 << 20
_ROOT: Final = b"rootfs"


class Dependency(msgspec.Struct, frozen=True):
    """What an image asks for below it: a name, labels that must be there, and perhaps an image ID."""

    name: str
    labels: tuple[tuple[str, str], ...]
    image_id: str | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """An image manifest; ``whitelist`` are cleaned paths, ``runtime`` is OCI's ``config`` of the app."""

    name: str
    labels: dict[str, str]
    dependencies: tuple[Dependency, ...]
    whitelist: frozenset[bytes]
    runtime: dict[str, Json]


class Rendered(msgspec.Struct, frozen=True):
    """One ACI of a rendering: its file, the whitelists that hold for it, its layer, and its diff ID."""

    path: Path
    whitelists: tuple[frozenset[bytes], ...]
    layer: Descriptor


class AppcStore(Store):
    """``aci:PATH[@DIGEST]``; the digest is the file's, or the image ID (SHA-512 of the uncompressed tar)."""

    name = "appc"
    transports = frozenset({"aci"})

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None
    ) -> Found | None:
        """As `Store.discover`."""
        path = Path(reference.path).absolute()
        if reference.digest is not None:
            await in_thread(_check_pin, path, reference.digest)
        manifest, rendered = await in_thread(render, path)
        layers = [one.layer for one in rendered]
        config = config_bytes(
            _platform(manifest, platform), [layer.digest for layer in layers], manifest.runtime
        )
        top, documents = manifest_document(config, layers)
        by_digest = {one.layer.digest: one for one in rendered}

        async def read(descriptor: Descriptor) -> bytes:
            return documents[descriptor.digest]

        async def opened(descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
            one = by_digest[descriptor.digest]
            pieces = converted(one.path, one.whitelists)
            try:
                while (piece := await in_thread(next, pieces, None)) is not None:
                    skipped = min(offset, len(piece))
                    offset -= skipped
                    if skipped < len(piece):
                        yield piece[skipped:]
            finally:
                pieces.close()

        unpinned = msgspec.structs.replace(reference, digest=None)
        document = Document(top, documents[top.digest])
        return await resolve(document, read, unpinned, platform, fetch=fetching(opened), source=str(path))


# --- rendering ----------------------------------------------------------------------------------------------


def render(path: Path) -> tuple[Manifest, tuple[Rendered, ...]]:
    """Return an image's manifest, and the ACIs it is made of, lowest first; blocking.

    Raises NotFound for a dependency that is not there, Corrupt for a cycle, Exhausted beyond `DEPTH`.
    """
    found: list[Rendered] = []
    manifest = _render(path, (), (), found)
    return manifest, tuple(found)


def _render(
    path: Path, whitelists: tuple[frozenset[bytes], ...], above: tuple[Path, ...], found: list[Rendered]
) -> Manifest:
    if path in above:
        raise Corrupt(f"{path} depends on itself", hint=" -> ".join(one.name for one in (*above, path)))
    if len(above) >= DEPTH:
        raise Exhausted(f"{above[0]}: dependencies are more than {DEPTH} deep")
    manifest = read_manifest(path)
    if manifest.whitelist:
        whitelists = (*whitelists, manifest.whitelist)
    for dependency in manifest.dependencies:
        _render(find(dependency, path), whitelists, (*above, path), found)
    if len(found) >= LAYER_LIMIT:
        raise Exhausted(f"{path}: more than {LAYER_LIMIT} images make it up")
    running, size = hashlib.sha256(), 0
    for piece in converted(path, whitelists):
        running.update(piece)
        size += len(piece)
    layer = layer_descriptor("none", Digest("sha256", running.hexdigest()), size)
    found.append(Rendered(path, whitelists, layer))
    return manifest


def find(dependency: Dependency, dependent: Path) -> Path:
    """Return the ACI beside ``dependent`` that is what it depends on; blocking.  Raises NotFound."""
    neighbours = sorted(dependent.parent.glob("*.aci"))[:NEIGHBOURS]
    for path in neighbours:
        try:
            manifest = read_manifest(path)
        except Corrupt:
            continue
        labels = all(manifest.labels.get(name) == value for name, value in dependency.labels)
        if manifest.name == dependency.name and labels and _is_image(path, dependency.image_id):
            return path
    wanted = ", ".join(f"{name}={value}" for name, value in dependency.labels)
    raise NotFound(
        f"{dependent} depends on {shown(dependency.name, 100)} {shown(wanted, 100)}".rstrip(),
        hint=f"put that image's .aci file into {dependent.parent}",
    )


def _is_image(path: Path, image_id: str | None) -> bool:
    return image_id is None or image_id_of(path) == image_id


def image_id_of(path: Path) -> str:
    """Return an ACI's ID: the SHA-512 of its uncompressed tar; blocking."""
    running = hashlib.sha512()
    for piece in _uncompressed(path):
        running.update(piece)
    return f"sha512-{running.hexdigest()}"


def _check_pin(path: Path, pin: Digest) -> None:
    if pin.algorithm == "sha512" and image_id_of(path) == f"sha512-{pin.hex}":
        return
    running = hashlib.new(pin.algorithm)
    fd = open_regular(path)
    try:
        while piece := os.read(fd, _PIECE):
            running.update(piece)
    finally:
        os.close(fd)
    if running.hexdigest() != pin.hex:
        raise Corrupt(f"{path} is not the image that the reference is pinned to")


# --- manifests ----------------------------------------------------------------------------------------------


def read_manifest(path: Path) -> Manifest:
    """Return an ACI's manifest; blocking.  Raises Corrupt when it has none, or a bad one."""
    sink = _ManifestSink(path)
    reader = TarReader(sink, whole=False)
    for piece in _uncompressed(path):
        reader.feed(piece)
        if sink.complete:
            return parse_manifest(bytes(sink.content), f"{path}, manifest")
    raise Corrupt(f"{path} has no manifest", hint="it is no App Container image")


class _ManifestSink:
    """Sink of the tar reader that keeps the member ``manifest``."""

    def __init__(self, path: Path) -> None:
        self.content = bytearray()
        self.complete = False
        self._path = path
        self._inside = False

    def begin(self, entry: TarEntry) -> None:
        self._inside = clean_path(entry.path, DEFAULT_LIMITS) == b"manifest" and entry.kind == stat.S_IFREG
        if self._inside and entry.size > MANIFEST_LIMIT:
            raise Exhausted(f"{self._path}: its manifest is larger than {MANIFEST_LIMIT} bytes")

    def data(self, view: memoryview) -> None:
        if self._inside:
            self.content += view

    def end(self) -> None:
        self.complete = self.complete or self._inside


def parse_manifest(data: bytes, what: str) -> Manifest:
    """Return the manifest that ``data`` holds; raises Corrupt."""
    top = Fields(load(data, what), what, ("acKind", "name", "labels", "app", "dependencies", "pathWhitelist"))
    name = top.text("name")
    if top.text("acKind") != "ImageManifest" or not name:
        raise Corrupt(f"{what} is not an image manifest")
    whitelist = (clean_path(path.encode(), DEFAULT_LIMITS) for path in top.texts("pathWhitelist"))
    labels = dict(_pairs(top, "labels"))
    return Manifest(
        name=name,
        labels=labels,
        dependencies=tuple(_dependency(item, what) for item in top.items("dependencies")),
        whitelist=frozenset(path for path in whitelist if path),
        runtime=_runtime(top, name, labels),
    )


def _pairs(fields: Fields, name: str) -> tuple[tuple[str, str], ...]:
    """A list of objects with ``name`` and ``value``."""
    found = []
    for item in fields.items(name):
        pair = Fields(item, f"{fields.where}, {name}", ("name", "value"))
        found.append((pair.text("name") or "", pair.text("value") or ""))
    return tuple(found)


def _dependency(item: Json, what: str) -> Dependency:
    fields = Fields(item, f"{what}, dependency", ("imageName", "labels", "imageID"))
    name = fields.text("imageName")
    if not name:
        raise fields.fail("imageName", "is missing")
    return Dependency(name, _pairs(fields, "labels"), fields.text("imageID"))


def _runtime(top: Fields, name: str, labels: dict[str, str]) -> dict[str, Json]:
    described: dict[str, Json] = {
        "appc.name": name,
        **{f"appc.{key}": value for key, value in labels.items()},
    }
    runtime: dict[str, Json] = {"Labels": described}
    if not top.has("app"):
        return runtime
    app = Fields(top.raw("app"), f"{top.where}, app", ("exec", "user", "group", "environment", "mountPoints"))
    environment: list[Json] = [f"{key}={value}" for key, value in _pairs(app, "environment")]
    points = [Fields(item, app.where, ("path",)).text("path") or "" for item in app.items("mountPoints")]
    arguments: list[Json] = list(app.texts("exec"))
    runtime |= {
        "Entrypoint": arguments,
        "Env": environment,
        "User": _user(app),
        "WorkingDir": app.text("workingDirectory") or "",
        "Volumes": {path: {} for path in points},
    }
    return runtime


def _user(app: Fields) -> str:
    """``user:group``.  The spec's third form, a file whose owner is meant, is refused."""
    user, group = app.text("user") or "0", app.text("group") or "0"
    if "/" in user or "/" in group:
        raise Unsupported(f"{app.where}: users named by a file's path are not supported", hint="use --user")
    return f"{user}:{group}"


def _platform(manifest: Manifest, wanted: Platform) -> Platform:
    labels = manifest.labels
    return normalised(Platform(labels.get("os", wanted.os), labels.get("arch", wanted.architecture)))


# --- conversion ---------------------------------------------------------------------------------------------


def converted(path: Path, whitelists: Sequence[frozenset[bytes]]) -> Generator[bytes, None, None]:
    """Yield the tar of an ACI's ``rootfs``, of what every whitelist names; blocking."""
    sink = _RootSink(whitelists)
    reader = TarReader(sink)
    for piece in _uncompressed(path):
        reader.feed(piece)
        yield sink.take()
    reader.finish()
    yield sink.take() + END


class _RootSink:
    """Sink of the tar reader that writes members below ``rootfs`` again, without that name."""

    def __init__(self, whitelists: Sequence[frozenset[bytes]]) -> None:
        self._whitelists = [(listed, _parents(listed)) for listed in whitelists]
        self._out: list[bytes] = []
        self._size: int | None = None

    def take(self) -> bytes:
        """Return what was written since."""
        made = b"".join(self._out)
        self._out.clear()
        return made

    def begin(self, entry: TarEntry) -> None:
        self._size = None
        path = _inside(entry.path)
        if path is None or not self._listed(path, entry.kind):
            return
        if WHITEOUT_PREFIX in path:
            raise Corrupt(f"aci: {shown(os.fsdecode(path), 80)} has a name that layers use for whiteouts")
        link = entry.link
        if entry.kind == HARDLINK:
            link = _inside(link) or b""
        self._size = entry.size if entry.kind == stat.S_IFREG else 0
        self._out.append(member(msgspec.structs.replace(entry, path=path or b"./", link=link)))

    def data(self, view: memoryview) -> None:
        if self._size is not None:
            self._out.append(bytes(view))

    def end(self) -> None:
        if self._size is not None:
            self._out.append(bytes(-self._size % BLOCK))

    def _listed(self, path: bytes, kind: int) -> bool:
        """A whitelist names each path by itself; directories on the way to one are there too."""
        return all(
            path in listed or not path or (kind == stat.S_IFDIR and path in parents)
            for listed, parents in self._whitelists
        )


def _inside(path: bytes) -> bytes | None:
    """Return a member's path below ``rootfs``; None for what lies beside it."""
    cleaned = clean_path(path, DEFAULT_LIMITS)
    if cleaned == _ROOT:
        return b""
    return cleaned[len(_ROOT) + 1 :] if cleaned.startswith(_ROOT + b"/") else None


def _parents(paths: frozenset[bytes]) -> frozenset[bytes]:
    found = set()
    for path in paths:
        while path := path.rpartition(b"/")[0]:
            found.add(path)
    return frozenset(found)


def _uncompressed(path: Path) -> Iterator[bytes]:
    plain = Decompressor(None, DEFAULT_LIMITS)
    fd = open_regular(path)
    try:
        while piece := os.read(fd, _PIECE):
            yield from plain.feed(piece)
    finally:
        os.close(fd)
    yield from plain.finish()
