"""From a name's document to one image: through indexes, by platform, to manifest and configuration.

The same walk for every family that speaks in OCI documents, so that no store is laxer than another (G-02):
each document is verified against the descriptor that led to it, the pinned digest must be one that was
passed, and manifest and configuration must agree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from mesocosm.errors import Corrupt, Exhausted, MesocosmError, NotFound
from mesocosm.images import mediatypes
from mesocosm.images.blobs import BlobStore
from mesocosm.images.config import ImageConfig, match_layers, parse_config
from mesocosm.images.digest import Digest, verify
from mesocosm.images.documents import Descriptor, Index, Manifest, parse_document, refuse_schema1
from mesocosm.images.platform import Platform, normalised, offers, rank, select
from mesocosm.images.progress import Report
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Document, Fetch, Found
from mesocosm.images.strict import DOCUMENT_LIMIT
from mesocosm.images.transfer import SinkFactory

DEPTH: Final = 4
"""Indexes within indexes that are followed."""

LOOKED_INTO: Final = 32
"""Indexes without a platform that are looked into for what they list, for one name."""

Read = Callable[[Descriptor], Awaitable[bytes]]
"""Gives the bytes of a document that a descriptor names."""


async def resolve(
    top: Document,
    read: Read,
    reference: Reference,
    platform: Platform,
    *,
    fetch: Fetch,
    source: str,
    etag: str | None = None,
) -> Found:
    """Return the image that ``top``, the document ``reference`` stands for, means on ``platform``.

    Neither ``top`` nor ``read`` need be trusted.  Raises Corrupt, NotFound (no such platform, another
    digest), Unsupported.
    """
    what = reference.familiar
    verify(top.data, top.descriptor.digest, top.descriptor.size, what=f"{what}, document")
    chain = [top]
    found = _parse(top, what)
    while isinstance(found, Index):
        if len(chain) > DEPTH:
            raise Exhausted(f"{what} nests more than {DEPTH} indexes")
        chosen, way = await _chosen(chain, found, platform, read, what)
        refuse_schema1(chosen.media_type, f"{what} for {platform}")
        chain = [*way, await _read(read, chosen, what)]
        found = _parse(chain[-1], what)
    require_pinned(reference, chain)
    manifest = found.require_image(what)
    chain.append(await _read(read, manifest.config, what))
    config = _config(chain[-1], manifest, platform, what)
    return Found(
        manifest=manifest, config=config, documents=tuple(chain), source=source, fetch=fetch, etag=etag
    )


async def resolve_made(
    top: Descriptor,
    documents: Mapping[Digest, bytes],
    reference: Reference,
    platform: Platform,
    *,
    fetch: Fetch,
    source: str,
    etag: str | None = None,
) -> Found:
    """As `resolve`, for a manifest and a configuration that were made here of what the source has.

    ``documents`` has the bytes of both.  The source has neither, so what is found fetches them from here.
    """

    async def read(descriptor: Descriptor) -> bytes:
        return documents[descriptor.digest]

    async def fetch_any(
        blobs: BlobStore, descriptor: Descriptor, *, sink: SinkFactory, report: Report, keep: bool
    ) -> None:
        made = msgspec.structs.replace(descriptor, data=documents.get(descriptor.digest))
        await fetch(blobs, made, sink=sink, report=report, keep=keep)

    document = Document(top, documents[top.digest])
    return await resolve(document, read, reference, platform, fetch=fetch_any, source=source, etag=etag)


async def platforms_of(top: Document, read: Read, what: str) -> tuple[Platform, ...]:
    """Return the platforms that ``top`` offers for Linux, each once: those that an index lists, or the one
    that an image says it is for.
    """
    found = _parse(top, what)
    if isinstance(found, Index):
        platforms = list(offers([one for one, _ in await _offered([top], found, read, what)]))
    else:
        platforms = await _own(found, read, what)
    return tuple(platform for platform in platforms if platform.os == "linux")


async def _own(manifest: Manifest, read: Read, what: str) -> list[Platform]:
    """The platform of an image; what is wrong with one that says none is told where it is resolved."""
    with contextlib.suppress(MesocosmError):
        config = await _read(read, manifest.require_image(what).config, what)
        return [normalised(parse_config(config.data, what=what).platform)]
    return []


_Offer = tuple[Descriptor, list[Document]]
"""What an index lists, and the documents that lead to it, that index the last."""


async def _chosen(chain: list[Document], index: Index, platform: Platform, read: Read, what: str) -> _Offer:
    """Return what an index has for a platform, ``chain`` being what led to it; in the indexes that it lists
    only where it names none itself.
    """
    try:
        return index.select(platform, what), chain
    except NotFound:
        offered = await _offered(chain, index, read, what)
    chosen = select([one for one, _ in offered], platform, what)
    return next((one, way) for one, way in offered if one is chosen)


async def _offered(chain: list[Document], index: Index, read: Read, what: str) -> list[_Offer]:
    """Return all that an index offers.  One in it that names no platform is looked into: what it lists
    speaks for itself (OCI image spec, "image-index.md").
    """
    offered: list[_Offer] = []
    waiting, looked_into = [(chain, index)], 0
    while waiting:
        way, one = waiting.pop(0)
        for entry in one.manifests:
            if entry.platform is not None or entry.media_type not in mediatypes.INDEXES:
                offered.append((entry, way))
                continue
            looked_into += 1
            if len(way) >= DEPTH or looked_into > LOOKED_INTO:
                raise Exhausted(f"{what} nests more than {DEPTH} indexes, or {LOOKED_INTO} beside each other")
            document = await _read(read, entry, what)
            inner = _parse(document, what)
            if isinstance(inner, Index):
                waiting.append(([*way, document], inner))
    return offered


def top_document(data: bytes, media_type: str, reference: Reference) -> Document:
    """Wrap the bytes that a name stands for; a pinned digest decides the algorithm they are named by."""
    algorithm = reference.digest.algorithm if reference.digest else "sha256"
    return Document(Descriptor(media_type, Digest.of(data, algorithm), len(data)), data)


def require_pinned(reference: Reference, chain: Sequence[Document]) -> None:
    """Raise Corrupt when the digest that a reference is pinned to is none of the documents'."""
    digests = [document.descriptor.digest for document in chain]
    if reference.digest is not None and reference.digest not in digests:
        raise Corrupt(
            f"{reference.familiar} resolves to {digests[0]}, not to the digest it is pinned to",
            hint="the source serves another image under this name",
        )


def _parse(document: Document, what: str) -> Manifest | Index:
    one = document.descriptor
    return parse_document(
        document.data, content_type=one.media_type, algorithm=one.digest.algorithm, what=what
    )


async def _read(read: Read, descriptor: Descriptor, what: str) -> Document:
    if descriptor.size > DOCUMENT_LIMIT:
        raise Exhausted(f"{what}: a document of {descriptor.size} bytes, more than {DOCUMENT_LIMIT}")
    data = descriptor.data if descriptor.data is not None else await read(descriptor)
    verify(data, descriptor.digest, descriptor.size, what=f"{what}, document")
    return Document(descriptor, data)


def _config(document: Document, manifest: Manifest, platform: Platform, what: str) -> ImageConfig:
    algorithm = document.descriptor.digest.algorithm
    config = parse_config(document.data, algorithm=algorithm, what=f"{what}, image configuration")
    match_layers(manifest, config, what)
    require_platform(config, platform, what)
    return config


def require_platform(config: ImageConfig, platform: Platform, what: str) -> None:
    """Raise NotFound when the image says that it is for another platform."""
    if config.platform.architecture and rank(config.platform, platform) is None:
        raise NotFound(
            f"{what} is an image for {config.platform}, not for {platform}",
            hint=f"take it all the same with --platform {config.platform}",
        )
