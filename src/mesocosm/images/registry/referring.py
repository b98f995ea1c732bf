"""Manifests that refer to another one, where the registry keeps no list of them itself: an index under a tag
that is made of the subject's digest (distribution spec, "Referrers Tag Schema").
"""

from __future__ import annotations

from mesocosm.errors import NotFound
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest
from mesocosm.images.documents import (
    Descriptor,
    Index,
    descriptor_json,
    index_document,
    parse_document,
)
from mesocosm.images.registry import manifests, pages, push
from mesocosm.images.registry.transport import Reply, Transport
from mesocosm.images.strict import Json


async def listed(
    transport: Transport, repository: str, digest: Digest, artifact_type: str | None
) -> tuple[Descriptor, ...]:
    """Return what the index under the subject's tag lists; nothing where there is none."""
    try:
        reply = await manifests.get(transport, repository, pages.tag_of_referrers(digest), "")
    except NotFound:
        return ()
    return pages.from_index(reply.data, artifact_type) if reply else ()


async def put(transport: Transport, repository: str, reference: str, data: bytes, media_type: str) -> Reply:
    """Put a manifest under a tag or its digest."""
    return await transport.call(
        "PUT",
        transport.url(manifests.path_of(repository, reference)),
        scope=push.scope(repository),
        what=f"manifest {repository}{'@' if ':' in reference else ':'}{reference}",
        accept=(200, 201, 202),
        headers={"Content-Type": media_type},
        body=data,
    )


async def list_among_referrers(
    transport: Transport, repository: str, data: bytes, media_type: str, digest: Digest
) -> None:
    """Add a manifest that has a subject to the index under the subject's tag; idempotent.

    Two clients that do so at one moment may lose one entry: the specification gives no way to prevent it.
    """
    found = parse_document(data, content_type=media_type, algorithm=digest.algorithm, what="the manifest")
    if found.subject is None:
        return
    entries = await listed(transport, repository, found.subject.digest, None)
    if any(one.digest == found.digest for one in entries):
        return
    kind = found.artifact_type or (None if isinstance(found, Index) else found.config.media_type)
    added = Descriptor(
        found.media_type, found.digest, found.size, annotations=found.annotations, artifact_type=kind
    )
    index: list[Json] = [descriptor_json(one) for one in (*entries, added)]
    tag = pages.tag_of_referrers(found.subject.digest)
    await put(transport, repository, tag, index_document(index), mediatypes.OCI_INDEX)
