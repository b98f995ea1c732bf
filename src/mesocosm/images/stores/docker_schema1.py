"""Images of registries that are in docker's schema 1: outlines, until their layers have been measured."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesocosm.errors import Corrupt
from mesocosm.images import mediatypes
from mesocosm.images.blobs import BlobStore
from mesocosm.images.config import parse_config
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, Index, parse_document
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report
from mesocosm.images.reference import Reference
from mesocosm.images.registry.client import ManifestReply, RegistryClient
from mesocosm.images.schema1 import parse_schema1
from mesocosm.images.stores.base import Document, Found, Outline
from mesocosm.images.stores.docker_blobs import fetching_from
from mesocosm.images.stores.resolve import require_platform, resolve_made, top_document
from mesocosm.images.synthesis import Measured


async def listed(
    client: RegistryClient, reference: Reference, platform: Platform, reply: ManifestReply
) -> Outline | None:
    """Return the image of an index where its entry for the platform is of schema 1, None for all others.

    The index names it by the digest of its payload; whether the size is that of the payload, or of what is
    served with signatures in it, is not told (distribution's "manifest-v2-2.md", "Manifest List").
    """
    top = top_document(reply.data, reply.media_type, reference)
    index = parse_document(top.data, content_type=top.descriptor.media_type, what=str(reference))
    if not isinstance(index, Index):
        return None
    if all(one.media_type not in mediatypes.SCHEMA1 for one in index.manifests):
        return None
    entry = index.select(platform, str(reference))
    if entry.media_type not in mediatypes.SCHEMA1:
        return None
    inner = await client.manifest(reference.repository, str(entry.digest), schema1=True)
    if inner is None or inner.media_type not in mediatypes.SCHEMA1:
        raise Corrupt(f"{reference}: {entry.digest} is listed as docker's schema 1, and is something else")
    asked_again_by = msgspec.structs.replace(inner, etag=reply.etag)
    return outline(client, reference, platform, asked_again_by, index=top)


def outline(
    client: RegistryClient,
    reference: Reference,
    platform: Platform,
    reply: ManifestReply,
    *,
    index: Document | None = None,
) -> Outline:
    """Return what a manifest of schema 1 tells of an image; nothing is asked for.  ``index``: what lists it.

    Raises Corrupt for one that is malformed, or of another name than the one asked for, NotFound for one of
    another platform.
    """
    what, repository = str(reference), reference.repository
    manifest = parse_schema1(reply.data, what)
    manifest.require_asked_for(repository, None if reference.digest or index else reference.tag, what)
    require_platform(parse_config(manifest.config([]), what=what), platform, what)
    document = Document(Descriptor(reply.media_type, reply.digest, len(reply.data)), reply.data)
    etag = reply.etag or None

    async def size(blobs: BlobStore, digest: Digest, report: Report) -> int:
        most = DEFAULT_LIMITS.stream
        return await client.measure_blob(blobs, repository, digest, most=most, report=report)

    fetch = fetching_from(client, repository)

    async def make(layers: Sequence[Measured]) -> Found:
        top, documents = manifest.documents(layers)
        pinned, source = reference.pinned(top.digest), reference.registry
        found = await resolve_made(top, documents, pinned, platform, fetch=fetch, source=source, etag=etag)
        led = (document,) if index is None else (index, document)
        return msgspec.structs.replace(
            found, documents=(*led, *found.documents), origin=document.descriptor.digest
        )

    return Outline(
        document=document,
        layers=manifest.layers,
        size=size,
        fetch=fetch,
        make=make,
        etag=etag,
        index=index,
    )
