"""Manifests and what tags stand for: the questions, the answers and the checks (attacks G-01, G-13)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mesocosm.errors import Corrupt, InvalidConfig, NotFound, Unsupported
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest, verify
from mesocosm.images.documents import parse_document, refuse_schema1
from mesocosm.images.foreign import parse_uint, shown
from mesocosm.images.mediatypes import base_type
from mesocosm.images.reference import Reference
from mesocosm.images.registry.transport import Reply, Transport
from mesocosm.images.schema1 import payload_of, served_as


class Resolved(msgspec.Struct, frozen=True):
    """What a tag or digest stands for now.  ``etag`` is for the next, conditional, question; empty when
    unknown.
    """

    digest: Digest
    media_type: str
    size: int
    etag: str = ""


class ManifestReply(msgspec.Struct, frozen=True):
    """A manifest's exact bytes and what they were served as.  ``digest`` was reckoned from the bytes.

    One of docker's schema 1 is its payload: the bytes without signatures, of the unsigned media type.
    """

    data: bytes
    media_type: str
    digest: Digest
    etag: str = ""


async def resolve(transport: Transport, repository: str, reference: str, etag: str) -> Resolved | None:
    """Return what ``reference`` stands for by HEAD, or by GET where the answer to that leaves something
    out.
    """
    try:
        reply = await _ask(transport, "HEAD", repository, reference, etag)
    except (NotFound, Unsupported):  # some refuse HEAD for what they have
        reply = None
    if reply is not None and reply.status == 304:
        return None
    resolved = _resolved(reply) if reply is not None else None
    if resolved is None or _names_otherwise(reference, resolved.digest):
        found = await get(transport, repository, reference, etag)
        return Resolved(found.digest, found.media_type, len(found.data), found.etag) if found else None
    if ":" in reference and str(resolved.digest) != reference:
        raise Corrupt(
            f"manifest {transport.registry}/{repository}@{reference} was answered with {resolved.digest}",
            hint="the registry serves another manifest",
        )
    return resolved


def _names_otherwise(reference: str, digest: Digest) -> bool:
    """Whether a digest asked for is of another algorithm than the registry's own: only the bytes tell."""
    return ":" in reference and not reference.startswith(f"{digest.algorithm}:")


async def get(
    transport: Transport, repository: str, reference: str, etag: str, *, schema1: bool = False
) -> ManifestReply | None:
    """Return a manifest, its bytes checked against the digest asked for and the one the registry claims; what
    a tag stands for has to be a manifest or an index.

    Raises Unsupported for docker's schema 1 unless ``schema1`` says that one is taken.
    """
    accepted = mediatypes.ACCEPTED_WITH_SCHEMA1 if schema1 else mediatypes.ACCEPTED
    reply = await _ask(transport, "GET", repository, reference, etag, accepted)
    if reply.status == 304:
        return None
    where = f"manifest {transport.registry}/{_written(repository, reference)}"
    media_type, data = base_type(reply.headers.get("Content-Type")), reply.body
    if schema1:
        media_type = served_as(data, media_type, where)
    else:
        refuse_schema1(media_type, where)
    if media_type in mediatypes.SCHEMA1:
        media_type, data = mediatypes.DOCKER_SCHEMA1, payload_of(data, media_type, where)
    pinned = Digest.parse(reference) if ":" in reference else None
    claimed = _claimed(reply.headers, where)
    for one in (claimed, pinned):
        if one is not None:
            verify(data, one, what=where)
    if pinned is None and media_type not in mediatypes.SCHEMA1:
        parse_document(data, content_type=media_type, what=where)  # a tag may stand for a portal's web page
    digest = pinned or claimed or Digest.of(data)
    return ManifestReply(data, media_type, digest, reply.headers.get("ETag", "")[:512])


def path_of(repository: str, reference: str) -> str:
    """Return the API path of a manifest."""
    return f"{repository}/manifests/{reference}"


def check_names(repository: str, reference: str = "any") -> None:
    """Raise InvalidConfig unless the repository, and the tag or digest, are of their grammar (attacks
    G-09).
    """
    pinned = Digest.parse(reference) if ":" in reference else None
    tag = None if pinned else reference
    Reference("docker", registry="registry.invalid", repository=repository, tag=tag, digest=pinned)


def pull_scope(repository: str) -> str:
    """Return the token scope for reading."""
    return f"repository:{repository}:pull"


async def _ask(
    transport: Transport,
    method: str,
    repository: str,
    reference: str,
    etag: str,
    accepted: tuple[str, ...] = mediatypes.ACCEPTED,
) -> Reply:
    headers = {"Accept": ", ".join(accepted)}
    if etag:
        headers["If-None-Match"] = etag
    return await transport.call(
        method,
        transport.url(path_of(repository, reference)),
        scope=pull_scope(repository),
        what=_written(repository, reference),
        accept=(200, 304) if etag else (200,),
        headers=headers,
        most=transport.limits.document,
    )


def _written(repository: str, reference: str) -> str:
    return f"{repository}{'@' if ':' in reference else ':'}{reference}"


def _resolved(reply: Reply) -> Resolved | None:
    """Read a HEAD's answer; None when the registry left something out, which only GET can tell."""
    claimed = _claimed(reply.headers, "the registry's answer")
    size = parse_uint(reply.headers.get("Content-Length", ""), 1 << 62)
    media_type = base_type(reply.headers.get("Content-Type"))
    if claimed is None or not size or not media_type:
        return None
    return Resolved(claimed, media_type, size, reply.headers.get("ETag", "")[:512])


def _claimed(headers: Mapping[str, str], where: str) -> Digest | None:
    text = headers.get("Docker-Content-Digest")
    if text is None:
        return None
    try:
        return Digest.parse(text)
    except InvalidConfig:
        raise Corrupt(f"{where}: Docker-Content-Digest is malformed: {shown(text, 100)!r}") from None
