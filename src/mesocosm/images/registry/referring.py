"""Manifests that refer to another one, where the registry keeps no list of them itself: an index under a tag
that is made of the subject's digest (distribution spec, "Referrers Tag Schema").
"""

from __future__ import annotations

from mesocosm.errors import Corrupt, Exhausted, NotFound, Unavailable, Unsupported
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
    subject = found.subject.digest
    entries = await listed(transport, repository, subject, None)
    if any(one.digest == found.digest for one in entries):
        return
    kind = found.artifact_type or (None if isinstance(found, Index) else found.config.media_type)
    added = Descriptor(
        found.media_type, found.digest, found.size, annotations=found.annotations, artifact_type=kind
    )
    await _write(transport, repository, subject, (*entries, added))


async def subject_of(transport: Transport, repository: str, digest: Digest) -> Digest | None:
    """Return what a manifest there refers to; None where it refers to nothing, or cannot be read."""
    try:
        reply = await manifests.get(transport, repository, str(digest), "")
        found = parse_document(reply.data, content_type=reply.media_type) if reply else None
    except (Corrupt, Exhausted, NotFound, Unsupported):
        return None
    return found.subject.digest if found is not None and found.subject is not None else None


async def unlist(transport: Transport, repository: str, subject: Digest, digest: Digest) -> None:
    """Take a manifest that was removed out of the index under its subject's tag, where the registry keeps no
    list itself (distribution spec, "Deleting Manifests"); idempotent.
    """
    if await pages.referrers(transport, repository, subject, None) is not None:
        return
    entries = await listed(transport, repository, subject, None)
    left = tuple(one for one in entries if one.digest != digest)
    if len(left) < len(entries):
        await _write(transport, repository, subject, left)


async def _write(
    transport: Transport, repository: str, subject: Digest, entries: tuple[Descriptor, ...]
) -> None:
    """Put the index under the subject's tag.

    Registries refuse one that lists what is not there: then what others removed is left out.
    """
    tag = pages.tag_of_referrers(subject)

    async def write(entries: tuple[Descriptor, ...]) -> None:
        index: list[Json] = [descriptor_json(one) for one in entries]
        await put(transport, repository, tag, index_document(index), mediatypes.OCI_INDEX)

    try:
        await write(entries)
    except (NotFound, Unavailable):
        there = [one for one in entries if await _is_there(transport, repository, one.digest)]
        if len(there) == len(entries):
            raise
        await write(tuple(there))


async def _is_there(transport: Transport, repository: str, digest: Digest) -> bool:
    try:
        await manifests.resolve(transport, repository, str(digest), "")
    except NotFound:
        return False
    return True
