"""Archives of ``docker save``: the form with ``manifest.json``, and the one before it with ``repositories``.

Such an archive has no manifest with digests, so one is made of what it has: always the same for the same
archive. Its layers' digests are checked while they are unpacked, as for every other family.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from mesocosm.errors import Corrupt, Exhausted, InvalidConfig, NotFound
from mesocosm.images.archive import Archive, Span, chunks, open_regular
from mesocosm.images.config import parse_config
from mesocosm.images.decompress import MAGIC_LENGTH, sniff
from mesocosm.images.digest import Digest, new_hash
from mesocosm.images.docker_v1 import V1Image, parse_v1, v1_config
from mesocosm.images.documents import LAYER_LIMIT, Descriptor
from mesocosm.images.foreign import parse_uint, shown
from mesocosm.images.plain_files import PlainFile, PlainFiles
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference, parse_docker_name
from mesocosm.images.stores.base import Found, Store, StoreContext, fetching
from mesocosm.images.stores.resolve import resolve_made
from mesocosm.images.strict import DOCUMENT_LIMIT, Fields, load, load_list
from mesocosm.images.synthesis import layer_descriptor, manifest_document
from mesocosm.images.transfer import in_thread

IMAGES: Final = 1000
"""Images of one archive."""

_PIECE: Final = 1 << 20


class Entry(msgspec.Struct, frozen=True):
    """One image of an archive: the bytes of its configuration, its layers' members, lowest first, names."""

    config: bytes
    layers: tuple[str, ...]
    names: tuple[str, ...]


class DockerArchiveStore(Store):
    """``docker-archive:PATH[:NAME[:TAG]|:@N]``."""

    name = "docker-archive"
    transports = frozenset({"docker-archive"})

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._files = PlainFiles(context.blobs)

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None, report: Report = silent
    ) -> Found | None:
        """As `Store.discover`; an archive has no ETag."""
        path, stopped = Path(reference.path).absolute(), threading.Event()
        file: PlainFile = await in_thread(self._files.get, path, stopped, stop=stopped.set)
        entry, top, documents, members = await in_thread(_read, file, reference)

        async def opened(descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
            async for chunk in chunks(file.path, members[descriptor.digest], offset):
                yield chunk

        fetch = fetching(opened, resume=False)
        found = await resolve_made(top, documents, reference, platform, fetch=fetch, source=str(path))
        return msgspec.structs.replace(found, names=tuple(map(parse_docker_name, entry.names)))

    async def close(self) -> None:
        """As `Store.close`."""
        self._files.close()


_Parts = tuple[Entry, Descriptor, dict[Digest, bytes], dict[Digest, Span]]


def _read(file: PlainFile, reference: Reference) -> _Parts:
    """The image meant, its manifest, its documents, and its layers' places; blocking."""
    archive, path = Archive.open(file.path, name=file.name), file.name
    entry = choose(entries(archive), reference)
    layers, members = [], {}
    config = parse_config(entry.config, what=f"{path}, image configuration")
    if len(config.diff_ids) != len(entry.layers):
        raise Corrupt(f"{path} has {len(entry.layers)} layers, the configuration {len(config.diff_ids)}")
    for name, diff_id in zip(entry.layers, config.diff_ids, strict=True):
        span = archive.span(name)
        layer = _descriptor(archive, span, diff_id)
        layers.append(layer)
        members[layer.digest] = span
    top, documents = manifest_document(entry.config, layers)
    return entry, top, documents, members


def _descriptor(archive: Archive, span: Span, diff_id: Digest) -> Descriptor:
    """A layer's descriptor: plain ones are named by their diff ID, compressed ones have to be read."""
    fd = open_regular(archive.path)
    try:
        kind = sniff(os.pread(fd, min(MAGIC_LENGTH, span.size), span.offset))
        if kind not in ("none", "gzip", "zstd"):
            raise Corrupt(f"{archive.name}: a layer is compressed with {kind}, which images are not")
        digest = diff_id if kind == "none" else hash_span(fd, span)
    finally:
        os.close(fd)
    return layer_descriptor(kind, digest, span.size)


def hash_span(fd: int, span: Span) -> Digest:
    """Return the SHA-256 digest of part of a file; blocking."""
    running = new_hash("sha256")
    at, end = span.offset, span.offset + span.size
    while at < end:
        piece = os.pread(fd, min(_PIECE, end - at), at)
        if not piece:
            break
        running.update(piece)
        at += len(piece)
    return Digest("sha256", running.hexdigest())


def entries(archive: Archive) -> tuple[Entry, ...]:
    """Return the images of an archive in either form; blocking."""
    if "manifest.json" in archive:
        return _from_manifest(archive)
    if "repositories" in archive:
        return _from_repositories(archive)
    layout = "it is an OCI layout: oci-archive:PATH"
    raise Corrupt(
        f"archive {archive.name} has neither manifest.json nor repositories",
        hint=layout if "oci-layout" in archive else "mesocosm import takes the tar of a root",
    )


def _from_manifest(archive: Archive) -> tuple[Entry, ...]:
    what = f"{archive.name}, manifest.json"
    configs: dict[str, bytes] = {}  # one configuration for a thousand images is read, and kept, once
    found = []
    for number, item in enumerate(
        _bounded(load_list(archive.read("manifest.json", DOCUMENT_LIMIT), what), what)
    ):
        fields = Fields(item, f"{what}, image {number}", ("Config", "RepoTags", "Layers"))
        config = fields.text("Config")
        if config is None:
            raise fields.fail("Config", "is missing")
        layers = fields.texts("Layers")
        _check_count(len(layers), fields.where)
        names = tuple(canonical(name, fields.where) for name in fields.texts("RepoTags"))
        if config not in configs:
            configs[config] = archive.read(config, DOCUMENT_LIMIT)
        found.append(Entry(configs[config], layers, names))
    return tuple(found)


def _from_repositories(archive: Archive) -> tuple[Entry, ...]:
    """Docker 1.0 to 1.9: ``repositories`` names each tag's top layer, and each layer its parent."""
    what = f"{archive.name}, repositories"
    table = load(archive.read("repositories", DOCUMENT_LIMIT), what)
    named: dict[str, list[str]] = {}
    for repository in table:
        tags = Fields(table, what, ()).table(repository)
        for tag, layer in tags.items():
            named.setdefault(layer, []).append(canonical(f"{repository}:{tag}", what))
    chains = _Chains(archive)
    return tuple(chains.image(top, named[top]) for top in _bounded(list(named), what))


class _Chains:
    """Images that are chains of layers, each of which is read once, however many images stand on it."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._steps: dict[str, V1Image] = {}
        self._diff_ids: dict[str, Digest] = {}

    def image(self, top: str, names: list[str]) -> Entry:
        """Return the image whose uppermost layer is ``top``."""
        chain: dict[str, V1Image] = {}
        layer = top
        while layer:
            if layer in chain:
                raise Corrupt(f"{self._archive.name}: layer {shown(layer, 80)} is its own ancestor")
            chain[layer] = self._step(layer)
            _check_count(len(chain), str(self._archive.name))
            layer = chain[layer].parent
        members = tuple(f"{one}/layer.tar" for one in reversed(chain))
        diff_ids = [self._diff_id(member) for member in members]
        return Entry(v1_config(list(chain.values())[::-1], diff_ids), members, tuple(names))

    def _step(self, layer: str) -> V1Image:
        if layer not in self._steps:
            what = f"{self._archive.name}, {shown(layer, 80)}/json"
            data = self._archive.read(f"{layer}/json", DOCUMENT_LIMIT)
            self._steps[layer] = parse_v1(load(data, what), what)
        return self._steps[layer]

    def _diff_id(self, member: str) -> Digest:
        if member not in self._diff_ids:
            span, fd = self._archive.span(member), open_regular(self._archive.path)
            try:
                self._diff_ids[member] = hash_span(fd, span)
            finally:
                os.close(fd)
        return self._diff_ids[member]


_Item = TypeVar("_Item")


def _bounded(images: list[_Item], where: str) -> list[_Item]:
    if len(images) > IMAGES:
        raise Exhausted(f"{where} has {len(images)} images, more than the {IMAGES} allowed")
    return images


def _check_count(count: int, where: str) -> None:
    if count > LAYER_LIMIT:
        raise Exhausted(f"{where} has {count} layers, more than the {LAYER_LIMIT} allowed")


def canonical(name: str, where: str) -> str:
    """Return a tag in an archive as ``registry/repository:tag``; Corrupt when it is none (I-20)."""
    try:
        named = parse_docker_name(name)
    except InvalidConfig as error:
        raise Corrupt(f"{where}: {error.message}") from None
    if named.tag is None:
        raise Corrupt(f"{where}: {shown(name, 80)} has no tag")
    return f"{named.name}:{named.tag}"


def choose(images: tuple[Entry, ...], reference: Reference) -> Entry:
    """Return the image that a reference means: by place, by name, or the only one there is."""
    wanted = reference.ref
    if wanted is None:
        hits = images
    elif wanted.startswith("@"):
        number = parse_uint(wanted[1:], 9999)
        hits = images[number : number + 1] if number is not None else ()
    else:
        hits = tuple(image for image in images if wanted in image.names)
    hits = tuple({(image.config, image.layers): image for image in hits}.values())
    if len(hits) == 1:
        return hits[0]
    listed = ", ".join(name for image in images for name in image.names[:3]) or f"@0 to @{len(images) - 1}"
    if not hits:
        raise NotFound(f"{reference}: no such image in the archive", hint=f"it has {shown(listed, 300)}")
    raise InvalidConfig(f"{reference} means {len(hits)} images", hint=f"choose one of {shown(listed, 300)}")
