"""Images of registries that are in docker's schema 1: outlines, until their layers have been measured."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesocosm.images.blobs import BlobStore
from mesocosm.images.config import parse_config
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report
from mesocosm.images.reference import Reference
from mesocosm.images.registry.client import ManifestReply, RegistryClient
from mesocosm.images.schema1 import parse_schema1
from mesocosm.images.stores.base import Document, Found, Outline
from mesocosm.images.stores.resolve import require_platform, resolve_made
from mesocosm.images.synthesis import Measured
from mesocosm.images.transfer import SinkFactory


def outline(
    client: RegistryClient, reference: Reference, platform: Platform, reply: ManifestReply
) -> Outline:
    """Return what a manifest of schema 1 tells of an image; nothing is asked for.

    Raises Corrupt for one that is malformed, or of another name than the one asked for, NotFound for one of
    another platform.
    """
    what, repository = str(reference), reference.repository
    manifest = parse_schema1(reply.data, what)
    manifest.require_asked_for(repository, None if reference.digest else reference.tag, what)
    require_platform(parse_config(manifest.config([]), what=what), platform, what)
    document = Document(Descriptor(reply.media_type, reply.digest, len(reply.data)), reply.data)
    etag = reply.etag or None

    async def size(blobs: BlobStore, digest: Digest, report: Report) -> int:
        most = DEFAULT_LIMITS.stream
        return await client.measure_blob(blobs, repository, digest, most=most, report=report)

    async def fetch(
        blobs: BlobStore, descriptor: Descriptor, *, sink: SinkFactory, report: Report, keep: bool
    ) -> None:
        await client.fetch_blob(blobs, repository, descriptor, sink=sink, report=report, keep=keep)

    async def make(layers: Sequence[Measured]) -> Found:
        top, documents = manifest.documents(layers)
        pinned, source = reference.pinned(top.digest), reference.registry
        found = await resolve_made(top, documents, pinned, platform, fetch=fetch, source=source, etag=etag)
        return msgspec.structs.replace(
            found, documents=(document, *found.documents), origin=document.descriptor.digest
        )

    return Outline(document=document, layers=manifest.layers, size=size, fetch=fetch, make=make, etag=etag)
